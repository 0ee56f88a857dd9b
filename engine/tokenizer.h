// engine/tokenizer.h - text as bytes: token 0..255 is that byte, 256 begins a text, 257 ends one.
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { TOKEN_BEGIN = 256, TOKEN_END = 257 };

// Writes TOKEN_BEGIN and the bytes of text [length] to tokens [length + 1]; returns length + 1.
int32_t tokenizer_encode(int32_t *tokens, const char *text, size_t length);

// The byte of a token, or -1 for tokens that are no text.
int tokenizer_byte(int32_t token);
