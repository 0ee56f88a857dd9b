// workloads/tasks.c - items, where they go, and what is asked.
#include "workloads/tasks.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"

static const char *const names[TASK_COUNT] = {
    [TASK_PASSKEY] = "passkey", [TASK_MULTIKEY] = "multikey", [TASK_VARIABLES] = "variables",
    [TASK_COPY] = "copy",       [TASK_FREQUENT] = "frequent",
};

enum {
    NAME_LETTERS = 4,
    PASSKEY_DIGITS = 5,
    DIGITS = 4,
    COPY_LETTERS = 24,
    CHAINS = 2,
    CHAIN_NAMES = 3,
    CHAIN_ITEMS = 3,
    FREQUENT_WORDS = 5,
    LEAST_KEYS = 4,
    TOKENS_PER_KEY = 256,    // distractors grow with the context
    LEAST_REPEATS = 4,
    TOKENS_PER_REPEAT = 512,
};

const char *task_name(enum task task)
{
    return names[task];
}

int task_from_name(enum task *out, const char *name)
{
    for (int task = 0; task < TASK_COUNT; task++) {
        if (strcmp(names[task], name) == 0) {
            *out = (enum task)task;
            return 0;
        }
    }
    return status_fail(-EINVAL, "%s is not a task (passkey, multikey, variables, copy, frequent)", name);
}

size_t task_plain_text(char *text, size_t n)
{
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        bool plain = c > ' ' && c <= '~' && !strchr("[]{}<>()=", c);
        if (plain || length == 0 || text[length - 1] != ' ') {
            text[length++] = plain ? c : ' ';
        }
    }
    return length;
}

// ---------------------------------------------------------------------------------------------------------------------
// Draws

struct random {
    uint64_t state;
};

static uint64_t next(struct random *random)    // splitmix64
{
    uint64_t z = (random->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int32_t below(struct random *random, int64_t n)    // n is far below 2^32: no bias that could be seen
{
    return (int32_t)(next(random) % (uint64_t)n);
}

static double uniform(struct random *random)    // [0, 1)
{
    return (double)(next(random) >> 11) * 0x1p-53;
}

static struct random begin(const struct task_options *options)
{
    struct random random = {options->seed};
    random.state = next(&random) ^ (uint64_t)options->index;
    random.state = next(&random) ^ (uint64_t)options->task << 32 ^ (uint64_t)options->context_tokens;
    return random;
}

static void draw_digits(struct random *random, char *out, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        out[i] = (char)('0' + below(random, 10));
    }
    out[n] = 0;
}

struct name {
    char text[NAME_LETTERS + 1];
};

// A name that none of out [n] is.
static void draw_name(struct random *random, struct name *out, int32_t n)
{
    static const char consonants[] = "bcdfghjklmnpqrstvwxz", vowels[] = "aeiou";
    bool taken = true;
    while (taken) {
        for (int32_t i = 0; i < NAME_LETTERS; i++) {
            const char *letters = i % 2 ? vowels : consonants;
            out[n].text[i] = letters[below(random, i % 2 ? sizeof vowels - 1 : sizeof consonants - 1)];
        }
        out[n].text[NAME_LETTERS] = 0;
        taken = false;
        for (int32_t i = 0; i < n; i++) {
            taken |= strcmp(out[i].text, out[n].text) == 0;
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Items

struct item {
    char text[TASK_TEXT_BYTES + TASK_TEXT_BYTES];
    double depth;
    int32_t place, order;    // byte of the filler; which one was made first
};

struct items {
    struct item *list;    // [n] owned, room for `capacity`
    int32_t n, capacity;
};

static int32_t key_count(int32_t context_tokens)
{
    int32_t n = context_tokens / TOKENS_PER_KEY;
    return n > LEAST_KEYS ? n : LEAST_KEYS;
}

static int32_t repeats(int32_t context_tokens)
{
    int32_t n = context_tokens / TOKENS_PER_REPEAT;
    return n > LEAST_REPEATS ? n : LEAST_REPEATS;
}

static int32_t item_count(enum task task, int32_t context_tokens)
{
    switch (task) {
    case TASK_MULTIKEY: return key_count(context_tokens);
    case TASK_VARIABLES: return CHAINS * CHAIN_ITEMS;
    case TASK_FREQUENT: return repeats(context_tokens) + (FREQUENT_WORDS - 1) * (repeats(context_tokens) / 2);
    default: return 1;
    }
}

int32_t task_questions(enum task task, int32_t context_tokens, int32_t n_depths)
{
    int32_t keys = key_count(context_tokens), most = keys < TASK_MAX_QUESTIONS ? keys : TASK_MAX_QUESTIONS;
    return task == TASK_VARIABLES ? CHAINS : task == TASK_MULTIKEY ? n_depths < most ? n_depths : most : 1;
}

__attribute__((format(printf, 3, 4))) static void add_item(struct items *items, double depth, const char *format, ...)
{
    struct item *item = &items->list[items->n];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(item->text, sizeof item->text, format, arguments);
    va_end(arguments);
    item->depth = depth;
    item->order = items->n++;
}

static struct task_question *add_question(struct task_document *out, double depth)
{
    struct task_question *question = &out->questions[out->n_questions++];
    question->depth = depth;
    return question;
}

// The depth at which question j of the document asks: all depths in turn, from document to document.
static double asked_depth(const struct task_options *options, int32_t j)
{
    int64_t first = options->index * task_questions(options->task, options->context_tokens, options->n_depths);
    return options->depths[(first + j) % options->n_depths];
}

static void make_passkey(struct task_document *out, struct items *items, const struct task_options *options,
                         struct random *random)
{
    struct task_question *question = add_question(out, asked_depth(options, 0));
    draw_digits(random, question->answer, PASSKEY_DIGITS);
    snprintf(question->text, sizeof question->text, "\n[pass key=");
    add_item(items, question->depth, "[pass key=%s]", question->answer);
}

static int make_multikey(struct task_document *out, struct items *items, const struct task_options *options,
                         struct random *random)
{
    int32_t n = key_count(options->context_tokens);
    int32_t asked = task_questions(options->task, options->context_tokens, options->n_depths);
    struct name *keys = calloc((size_t)n, sizeof *keys);
    if (!keys) {
        return status_fail(-ENOMEM, "no memory for %d names", n);
    }
    for (int32_t i = 0; i < n; i++) {
        char number[DIGITS + 1];
        draw_name(random, keys, i);
        draw_digits(random, number, DIGITS);
        double depth = i < asked ? asked_depth(options, i) : uniform(random);
        add_item(items, depth, "[%s=%s]", keys[i].text, number);
        if (i < asked) {
            struct task_question *question = add_question(out, depth);
            snprintf(question->text, sizeof question->text, "\n[%s=", keys[i].text);
            snprintf(question->answer, sizeof question->answer, "%s", number);
        }
    }
    free(keys);
    return 0;
}

static void make_variables(struct task_document *out, struct items *items, struct random *random)
{
    struct name chain[CHAINS * CHAIN_NAMES];
    for (int32_t i = 0; i < CHAINS * CHAIN_NAMES; i++) {
        draw_name(random, chain, i);
    }
    for (int32_t i = 0; i < CHAINS; i++) {
        const struct name *name = chain + CHAIN_NAMES * i;
        char number[DIGITS + 1];
        draw_digits(random, number, DIGITS);
        add_item(items, uniform(random), "[%s=%s]", name[0].text, name[1].text);
        add_item(items, uniform(random), "[%s=%s]", name[1].text, name[2].text);
        add_item(items, uniform(random), "[%s=%s]", name[2].text, number);
        struct task_question *question = add_question(out, NAN);
        snprintf(question->text, sizeof question->text, "\n<%.*s=", NAME_LETTERS, name[0].text);
        snprintf(question->answer, sizeof question->answer, "%s=%s=%s", name[1].text, name[2].text, number);
    }
}

static void make_copy(struct task_document *out, struct items *items, const struct task_options *options,
                      struct random *random)
{
    struct task_question *question = add_question(out, asked_depth(options, 0));
    for (int32_t i = 0; i < COPY_LETTERS; i++) {
        question->answer[i] = (char)('a' + below(random, 26));
    }
    snprintf(question->text, sizeof question->text, "\n{copy=");
    add_item(items, question->depth, "{copy=%s}", question->answer);
}

static void make_frequent(struct task_document *out, struct items *items, const struct task_options *options,
                          struct random *random)
{
    int32_t most = repeats(options->context_tokens);
    struct name words[FREQUENT_WORDS];
    for (int32_t i = 0; i < FREQUENT_WORDS; i++) {
        draw_name(random, words, i);
        for (int32_t j = 0; j < (i == 0 ? most : most / 2); j++) {
            add_item(items, uniform(random), "(%s)", words[i].text);
        }
    }
    struct task_question *question = add_question(out, NAN);
    snprintf(question->text, sizeof question->text, "\n(most=");
    snprintf(question->answer, sizeof question->answer, "%s", words[0].text);
}

static int make_items(struct task_document *out, struct items *items, const struct task_options *options,
                      struct random *random)
{
    items->capacity = item_count(options->task, options->context_tokens);
    items->list = calloc((size_t)items->capacity, sizeof *items->list);
    if (!items->list) {
        return status_fail(-ENOMEM, "no memory for %d items", items->capacity);
    }
    switch (options->task) {
    case TASK_PASSKEY: make_passkey(out, items, options, random); return 0;
    case TASK_MULTIKEY: return make_multikey(out, items, options, random);
    case TASK_VARIABLES: make_variables(out, items, random); return 0;
    case TASK_COPY: make_copy(out, items, options, random); return 0;
    default: make_frequent(out, items, options, random); return 0;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The body

static int by_place(const void *left, const void *right)
{
    const struct item *a = left, *b = right;
    return a->place != b->place ? (a->place > b->place) - (a->place < b->place)
                                : (a->order > b->order) - (a->order < b->order);
}

// The byte after the next space from depth * n on, or n.
static int32_t find_place(const char *filler, int32_t n, double depth)
{
    int32_t at = (int32_t)(depth * n);
    while (at < n && filler[at] != ' ') {
        at++;
    }
    return at < n ? at + 1 : n;
}

// Puts the items into filler [n_filler].
static void weave(struct task_document *out, struct items *items, const char *filler, int32_t n_filler)
{
    for (int32_t i = 0; i < items->n; i++) {
        items->list[i].place = find_place(filler, n_filler, items->list[i].depth);
    }
    qsort(items->list, (size_t)items->n, sizeof *items->list, by_place);
    int32_t at = 0, length = 0;
    for (int32_t i = 0; i < items->n; i++) {
        const struct item *item = &items->list[i];
        memcpy(out->body + length, filler + at, (size_t)(item->place - at));
        length += item->place - at;
        length += sprintf(out->body + length, "%s ", item->text);
        at = item->place;
    }
    memcpy(out->body + length, filler + at, (size_t)(n_filler - at));
}

static int make_body(struct task_document *out, struct items *items, const struct task_options *options,
                     struct random *random)
{
    int32_t asked = (int32_t)(strlen(out->questions[0].text) + strlen(out->questions[0].answer)), marks = 0;
    for (int32_t i = 0; i < items->n; i++) {
        marks += (int32_t)strlen(items->list[i].text) + 1;
    }
    int32_t n_filler = options->context_tokens - 1 - asked - marks;
    if (n_filler < 1) {
        return status_fail(-EINVAL,
                           "a context of %d tokens is too short for the task %s: its items and question take %d",
                           options->context_tokens, task_name(options->task), 1 + asked + marks);
    }
    out->n_body = marks + n_filler;
    out->body = malloc((size_t)out->n_body + 1);    // sprintf ends each item with a 0
    char *filler = malloc((size_t)n_filler);
    if (!out->body || !filler) {
        free(filler);
        return status_fail(-ENOMEM, "no memory for a document of %d bytes", out->n_body);
    }
    size_t from = (size_t)(uniform(random) * (double)options->n_filler);
    for (int32_t i = 0; i < n_filler; i++) {
        size_t at = (from + (size_t)i) % (options->n_filler + 1);
        filler[i] = at < options->n_filler ? options->filler[at] : ' ';    // between its end and its beginning
    }
    weave(out, items, filler, n_filler);
    free(filler);
    return 0;
}

int task_document_make(struct task_document *out, const struct task_options *options)
{
    *out = (struct task_document){0};
    if (options->n_filler == 0 || options->n_depths < 1) {
        return status_fail(-EINVAL, "a task needs a filler text and a depth to ask at");
    }
    struct random random = begin(options);
    struct items items = {0};
    int error = make_items(out, &items, options, &random);
    error = error ? error : make_body(out, &items, options, &random);
    free(items.list);
    if (error) {
        task_document_free(out);
    }
    return error;
}

void task_document_free(struct task_document *document)
{
    if (document) {
        free(document->body);
        *document = (struct task_document){0};
    }
}
