// traces/trace_gzip.h - traces in gzip's format, written and read as streams. Private to this room.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

// Writer. What was packed with `end` false can be unpacked to its last byte, whatever follows.
struct trace_packer;
int trace_packer_open(struct trace_packer **out);    // -ENOMEM
// Packs [n] bytes; *packed [*n_packed] is valid until the next call. `end`: nothing follows. -ENOMEM.
int trace_packer_pack(struct trace_packer *packer, const uint8_t *bytes, size_t n, bool end, const uint8_t **packed,
                      size_t *n_packed);
void trace_packer_close(struct trace_packer *packer);    // NULL-safe

// Reader: *out yields what `packed` holds, and owns it from then on, also where this fails. Only back to the begin can
// it seek. It ends where the packed bytes end, whole or not; damage is an error of the stream (errno EBADMSG).
int trace_unpack(FILE **out, FILE *packed);              // -ENOMEM
