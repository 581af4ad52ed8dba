"""What a batch means: one task a file, each exporting `Task`."""
