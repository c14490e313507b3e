//! Nothing: the programs are in `../examples`, their pages in `../docs/PATTERNS.md`.
