"""Commands that write pages of docs/ and parts of README.md, so that no number in them is typed."""
