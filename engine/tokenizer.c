// engine/tokenizer.c - bytes as tokens.
#include "engine/tokenizer.h"

int32_t tokenizer_encode(int32_t *tokens, const char *text, size_t length)
{
    tokens[0] = TOKEN_BEGIN;
    for (size_t i = 0; i < length; i++) {
        tokens[i + 1] = (unsigned char)text[i];
    }
    return (int32_t)length + 1;
}

int tokenizer_byte(int32_t token)
{
    return token >= 0 && token < TOKEN_BEGIN ? (int)token : -1;
}
