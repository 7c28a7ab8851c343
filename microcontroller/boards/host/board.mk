# This computer: the serial line is stdin and stdout.
TOOLS   =
SOURCES = host/port.c
