//! PyO3: argument parsing, GIL release, error mapping; nothing else.
