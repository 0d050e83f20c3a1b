"""Pages: what reports and galleries share, so that a step adds only its own content."""
