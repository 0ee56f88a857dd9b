// tui/input.c - editing a line.
#include "tui/input.h"

#include <stdio.h>
#include <string.h>

#include "tui/keys.h"

void input_begin(struct input *input, enum input_mode mode, const char *text)
{
    *input = (struct input){.mode = mode};
    snprintf(input->text, sizeof input->text, "%s", text);
    input->length = input->cursor = (int32_t)strlen(input->text);
}

void input_end(struct input *input)
{
    *input = (struct input){.mode = INPUT_NONE};
}

static void remove_at(struct input *input, int32_t at)
{
    if (at >= 0 && at < input->length) {
        memmove(input->text + at, input->text + at + 1, (size_t)(input->length - at));
        input->length--;
        input->cursor -= input->cursor > at;
    }
}

enum input_result input_key(struct input *input, int32_t key)
{
    switch (key) {
    case KEY_RETURN: return INPUT_DONE;
    case KEY_ESCAPE: return INPUT_CANCELLED;
    case KEY_ERASE:
        if (input->length == 0) {
            return INPUT_CANCELLED;    // nothing left to take back but the line itself
        }
        remove_at(input, input->cursor - 1);
        return INPUT_TYPED;
    case KEY_REMOVE: remove_at(input, input->cursor); return INPUT_TYPED;
    case KEY_ARROW_LEFT: input->cursor -= input->cursor > 0; return INPUT_TYPED;
    case KEY_ARROW_RIGHT: input->cursor += input->cursor < input->length; return INPUT_TYPED;
    case KEY_TO_BEGIN: input->cursor = 0; return INPUT_TYPED;
    case KEY_TO_END: input->cursor = input->length; return INPUT_TYPED;
    case 'U' - '@':    // Ctrl-U
        input->text[0] = 0;
        input->length = input->cursor = 0;
        return INPUT_TYPED;
    default: break;
    }
    if (key < ' ' || key >= KEY_ERASE || input->length + 1 >= INPUT_BYTES) {
        return INPUT_IGNORED;
    }
    memmove(input->text + input->cursor + 1, input->text + input->cursor, (size_t)(input->length - input->cursor + 1));
    input->text[input->cursor++] = (char)key;
    input->length++;
    return INPUT_TYPED;
}
