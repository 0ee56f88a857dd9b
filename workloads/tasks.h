// workloads/tasks.h - documents that hide something, and questions whose answers are known: the long-range tasks.
//
// The format is workloads/train/TASKS.md's, which the trained models learned: marked items in a filler of running text,
// a question that is the beginning of a mark, an answer that counts if all its bytes are right. A document is a pure
// function of (task, context, filler, depths, seed, index). Texts are bytes; what begins a document is the caller's.
#pragma once

#include <stddef.h>
#include <stdint.h>

enum task { TASK_PASSKEY, TASK_MULTIKEY, TASK_VARIABLES, TASK_COPY, TASK_FREQUENT, TASK_COUNT };

const char *task_name(enum task task);                   // "passkey"
int task_from_name(enum task *out, const char *name);    // -EINVAL and a text that lists the names

enum { TASK_MAX_QUESTIONS = 16, TASK_TEXT_BYTES = 32 };

struct task_question {
    char text[TASK_TEXT_BYTES], answer[TASK_TEXT_BYTES];    // both end with a 0; the question begins with a newline
    double depth;    // of the item asked for, as asked for, [0, 1]; NaN where the task has it at random
};

// The questions of one document are equally long, and so are their answers.
struct task_document {
    char *body;    // [n_body] owned
    int32_t n_body, n_questions;
    struct task_question questions[TASK_MAX_QUESTIONS];
};

struct task_options {
    enum task task;
    int32_t context_tokens;    // of the whole: what begins it (one token), body, question, answer
    const char *filler;        // [n_filler] as task_plain_text leaves it; where it ends it begins again
    size_t n_filler;
    const double *depths;    // [n_depths] to ask at, [0, 1]; taken in turn
    int32_t n_depths;
    uint64_t seed;
    int64_t index;    // of the document: 0, 1, 2, ...
};

// -EINVAL with what would do if the context is too short for the items, or there is no filler. *out is empty on
// failure; task_document_free frees what it holds.
int task_document_make(struct task_document *out, const struct task_options *options);
void task_document_free(struct task_document *document);    // NULL-safe

// How many questions each document of such options holds.
int32_t task_questions(enum task task, int32_t context_tokens, int32_t n_depths);

// Makes running text [n] a filler in place: printable, without marks, one space between words. Returns its length.
size_t task_plain_text(char *text, size_t n);
