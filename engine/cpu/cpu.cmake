# Filled by the CPU backend: one source compiled once per instruction set.
