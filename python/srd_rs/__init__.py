"""srd-rs: Hugging Face checkpoint in, GGUF out."""
