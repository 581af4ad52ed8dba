"""Foreign weights → parameters, one kind of file a file; chosen by `config.init`."""
