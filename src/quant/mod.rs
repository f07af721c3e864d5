//! Block formats and the mixes (recipes) that choose among them.
