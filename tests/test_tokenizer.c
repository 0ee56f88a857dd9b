// tests/test_tokenizer.c - bytes in, the same bytes out.
#include "engine/tokenizer.h"
#include "tests/check.h"

int main(void)
{
    check_begin();
    for (int round = 0; round < 100; round++) {
        char text[300];
        int32_t tokens[302];
        size_t length = (size_t)check_range(0, 300);
        for (size_t i = 0; i < length; i++) {
            text[i] = (char)(round == 0 ? i : check_random());    // every byte once, zero included
        }
        memset(tokens, 0x5a, sizeof tokens);
        CHECK(tokenizer_encode(tokens, text, length) == (int32_t)length + 1);
        CHECK(tokens[0] == TOKEN_BEGIN);
        CHECK(tokens[length + 1] == 0x5a5a5a5a);
        for (size_t i = 0; i < length; i++) {
            CHECK(tokens[i + 1] >= 0 && tokens[i + 1] < 256);
            CHECK(tokenizer_byte(tokens[i + 1]) == (unsigned char)text[i]);
        }
    }
    CHECK(tokenizer_byte(TOKEN_BEGIN) == -1 && tokenizer_byte(TOKEN_END) == -1);
    CHECK(tokenizer_byte(-1) == -1 && tokenizer_byte(511) == -1);
    return check_end();
}
