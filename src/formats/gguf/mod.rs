//! GGUF v3: values, reader, writer.
