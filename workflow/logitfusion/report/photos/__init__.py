"""Photos that were classified, as a page to look at: contact sheets, confusions, what the head changed."""
