# Device table compiled in.
