// tests/test_tasks.c - documents of the long-range tasks, solved by reading them.
//
// An independent reader finds the marks in a body and answers the question from them alone; what is left without marks
// must be a stretch of the filler. Sizes, depths and seeds are drawn anew each time.
#include <errno.h>

#include "engine/status.h"
#include "tests/check.h"
#include "workloads/tasks.h"

enum { MAX_ITEMS = 512, FILLER = 5000 };

static char filler[FILLER + 1];

static void make_filler(void)
{
    for (int i = 0; i < FILLER; i++) {
        filler[i] = check_range(0, 5) ? (char)check_range('a', 'z') : ' ';
    }
    size_t n = task_plain_text(filler, FILLER);
    filler[n] = 0;
}

struct found {
    char text[64];
    int32_t place;    // in what is left
};

// Cuts marked items, and the space behind each, out of `body`; returns how many. *rest is what is left.
static int32_t find_items(const struct task_document *document, struct found *items, char *rest, int32_t *n_rest)
{
    int32_t n = 0, left = 0;
    for (int32_t i = 0; i < document->n_body; i++) {
        const char *from = document->body + i, *closing;
        if (!strchr("[({", *from)) {
            rest[left++] = *from;
            continue;
        }
        char close = *from == '[' ? ']' : *from == '(' ? ')' : '}';
        closing = memchr(from, close, (size_t)(document->n_body - i));
        CHECK(closing && closing - from < 60 && closing + 1 < document->body + document->n_body && closing[1] == ' ');
        if (!closing || n == MAX_ITEMS || closing - from >= 60) {
            return -1;
        }
        snprintf(items[n].text, sizeof items[n].text, "%.*s", (int)(closing - from + 1), from);
        items[n++].place = left;
        i += (int32_t)(closing - from) + 1;
    }
    *n_rest = left;
    return n;
}

// The item that begins with `begin`; checks that there is one only.
static const struct found *find_one(const struct found *items, int32_t n, const char *begin)
{
    const struct found *found = NULL;
    for (int32_t i = 0; i < n; i++) {
        if (strncmp(items[i].text, begin, strlen(begin)) == 0) {
            CHECK_MESSAGE(!found, "two items begin with %s", begin);
            found = &items[i];
        }
    }
    CHECK_MESSAGE(found, "no item begins with %s", begin);
    return found;
}

// Its text between `begin` and the closing mark.
static void value_of(char *out, const struct found *item, const char *begin)
{
    snprintf(out, 64, "%s", item ? item->text + strlen(begin) : "]");
    out[strlen(out) - 1] = 0;
}

// Follows [a=b] [b=c] [c=number] from the question "\n<a=".
static void solve_variables(char *out, const struct found *items, int32_t n, const char *question)
{
    char name[64], begin[80];
    snprintf(name, sizeof name, "%s", question + 2);
    name[strlen(name) - 1] = 0;
    out[0] = 0;
    for (int hop = 0; hop < 3; hop++) {
        snprintf(begin, sizeof begin, "[%.60s=", name);
        value_of(name, find_one(items, n, begin), begin);
        strcat(strcat(out, hop ? "=" : ""), name);
    }
}

static void solve_frequent(char *out, const struct found *items, int32_t n, int32_t expected)
{
    int32_t best = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t count = 0;
        for (int32_t j = 0; j < n; j++) {
            count += strcmp(items[i].text, items[j].text) == 0;
        }
        CHECK_MESSAGE(count == expected || count == expected / 2, "%s stands %d times", items[i].text, count);
        if (count > best) {
            best = count;
            value_of(out, &items[i], "(");
        }
    }
    CHECK(best == expected);
}

// An item asked for at a depth stands at the first word from there on.
static void check_place(const struct found *item, double depth, const char *rest, int32_t n_rest)
{
    int32_t at = (int32_t)(depth * n_rest);
    while (at < n_rest && rest[at] != ' ') {
        at++;
    }
    at = at < n_rest ? at + 1 : n_rest;
    CHECK_MESSAGE(item && item->place == at, "depth %g: at %d of %d, expected %d", depth, item ? item->place : -1,
                  n_rest, at);
}

static void check_rest(const char *rest, int32_t n_rest)
{
    size_t n = strlen(filler);
    bool found = false;
    for (size_t from = 0; from < n && !found; from++) {
        found = true;
        for (int32_t i = 0; i < n_rest && found; i++) {
            size_t at = (from + (size_t)i) % (n + 1);
            found = rest[i] == (at < n ? filler[at] : ' ');
        }
    }
    CHECK_MESSAGE(found, "without its items a body of %d bytes is no stretch of the filler", n_rest);
}

static int32_t expected_items(enum task task, int32_t context)
{
    int32_t keys = context / 256 > 4 ? context / 256 : 4, most = context / 512 > 4 ? context / 512 : 4;
    return task == TASK_MULTIKEY    ? keys
           : task == TASK_VARIABLES ? 6
           : task == TASK_FREQUENT  ? most + 4 * (most / 2)
                                    : 1;
}

static void check_question(const struct task_document *document, const struct task_options *options, int32_t q,
                           const struct found *items, int32_t n_items, const char *rest, int32_t n_rest)
{
    const struct task_question *question = &document->questions[q];
    static const size_t answer_bytes[TASK_COUNT] = {5, 4, 14, 24, 4};
    char answer[256] = "";
    CHECK(question->text[0] == '\n' && strlen(question->answer) == answer_bytes[options->task]);
    CHECK(document->n_body + 1 + (int32_t)(strlen(question->text) + strlen(question->answer)) ==
          options->context_tokens);
    if (options->task == TASK_VARIABLES) {
        solve_variables(answer, items, n_items, question->text);
        CHECK(isnan(question->depth));
    } else if (options->task == TASK_FREQUENT) {
        CHECK(strcmp(question->text, "\n(most=") == 0 && isnan(question->depth));
        solve_frequent(answer, items, n_items, options->context_tokens / 512 > 4 ? options->context_tokens / 512 : 4);
    } else {
        const struct found *item = find_one(items, n_items, question->text + 1);
        int32_t each = task_questions(options->task, options->context_tokens, options->n_depths);
        value_of(answer, item, question->text + 1);
        check_place(item, question->depth, rest, n_rest);
        CHECK(question->depth == options->depths[(options->index * each + q) % options->n_depths]);
    }
    CHECK_MESSAGE(strcmp(answer, question->answer) == 0, "%s: %s: read %s, expected %s", task_name(options->task),
                  question->text + 1, answer, question->answer);
}

static void check_document(enum task task, int32_t context)
{
    static struct found items[MAX_ITEMS];
    static const double depths[] = {0, 0.3, 0.5, 1, 0.99};
    struct task_options options = {.task = task,
                                   .context_tokens = context,
                                   .filler = filler,
                                   .n_filler = strlen(filler),
                                   .depths = depths,
                                   .n_depths = check_range(1, 5),
                                   .seed = check_random(),
                                   .index = check_range(0, 1000)};
    struct task_document document, again, other;
    char *rest = malloc((size_t)context);
    int32_t n_rest = 0;
    CHECK_MESSAGE(task_document_make(&document, &options) == 0, "%s", status_text());
    CHECK(task_document_make(&again, &options) == 0);
    options.index++;
    CHECK(task_document_make(&other, &options) == 0);
    options.index--;
    CHECK(document.n_body == again.n_body && memcmp(document.body, again.body, (size_t)again.n_body) == 0);
    CHECK(document.n_body != other.n_body || memcmp(document.body, other.body, (size_t)other.n_body) != 0);
    int32_t n = find_items(&document, items, rest, &n_rest);
    CHECK_MESSAGE(n == expected_items(task, context), "%s of %d: %d items", task_name(task), context, n);
    CHECK(document.n_questions >= 1 && document.n_questions == task_questions(task, context, options.n_depths));
    for (int32_t q = 0; q < document.n_questions; q++) {
        check_question(&document, &options, q, items, n, rest, n_rest);
    }
    check_rest(rest, n_rest);
    task_document_free(&document);
    task_document_free(&again);
    task_document_free(&other);
    free(rest);
}

static void check_plain(void)
{
    char text[] = "a\r\n\tb [c=d]  \x80{e}\x7f~ f";
    size_t n = task_plain_text(text, sizeof text - 1);
    CHECK_MESSAGE(n == strlen("a b c d e ~ f") && memcmp(text, "a b c d e ~ f", n) == 0, "%.*s", (int)n, text);
    CHECK(task_plain_text(text, 0) == 0);
}

static void check_errors(void)
{
    static const double depth = 0.5;
    struct task_options options = {.task = TASK_COPY,
                                   .context_tokens = 64,
                                   .filler = filler,
                                   .n_filler = strlen(filler),
                                   .depths = &depth,
                                   .n_depths = 1,
                                   .seed = 1};
    struct task_document document;
    enum task task;
    CHECK(task_document_make(&document, &options) == -EINVAL && strstr(status_text(), "64") && !document.body);
    options.context_tokens = 65;    // one byte of filler
    CHECK_MESSAGE(task_document_make(&document, &options) == 0, "%s", status_text());
    task_document_free(&document);
    options.n_filler = 0;
    CHECK(task_document_make(&document, &options) == -EINVAL);
    CHECK(task_from_name(&task, "passkeys") == -EINVAL && strstr(status_text(), "passkey, multikey"));
    for (int t = 0; t < TASK_COUNT; t++) {
        CHECK(task_from_name(&task, task_name((enum task)t)) == 0 && task == (enum task)t);
    }
}

int main(void)
{
    check_begin();
    make_filler();
    check_plain();
    for (int task = 0; task < TASK_COUNT; task++) {
        for (int i = 0; i < 12; i++) {
            check_document((enum task)task, check_range(300, i < 10 ? 2000 : 12000));
        }
    }
    check_errors();
    return check_end();
}
