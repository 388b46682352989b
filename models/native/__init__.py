"""C that the inner loops of a CPU run in: built when the package is installed, where there is a compiler; nothing needs it to be right."""
