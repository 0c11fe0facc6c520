"""Programs to run and to read; README.md has the table of them."""
