"""File formats, each shared by several data sets or used by one."""
