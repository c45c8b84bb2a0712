"""Starting things: the shell scripts that set up, train, test and submit, and the `maha` command of an installation."""
