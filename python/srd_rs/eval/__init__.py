"""Measuring GGUFs with llama.cpp (the extra `srd-rs[eval]`). Conversion needs none of this."""
