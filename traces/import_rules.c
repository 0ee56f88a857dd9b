// traces/import_rules.c - reading rules, and whether they fit.
#include "traces/import_rules.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/input_file.h"
#include "engine/status_list.h"

extern const unsigned char serving_rules[];    // traces/rules/serving.rules, see traces.cmake
extern const size_t serving_rules_bytes;

enum { MAX_WORDS = 16, MAX_LINE_BYTES = 2048, MAX_GROUPS = 10, MAX_FILE_BYTES = 1 << 20 };

static const char *const field_names[IMPORT_FIELDS] = {"prompts", "prompt_tokens", "prompt_keys",
                                                       "answers", "answer_tokens", "answer_keys"};

struct place {
    const char *where;
    int line;
};

__attribute__((format(printf, 2, 3))) static int wrong(const struct place *place, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    status_fail_list(-EINVAL, format, arguments);
    va_end(arguments);
    return status_prefix(-EINVAL, "%s:%d: ", place->where, place->line);
}

// Cuts a line into words, in place; a word in double quotes may hold blanks. The number of words, or -1 for too many or
// a quote that does not end.
static int cut_words(char **words, char *line)
{
    int n = 0;
    for (char *at = line; *at && *at != '#';) {
        if (*at == ' ' || *at == '\t') {
            at++;
            continue;
        }
        bool quoted = *at == '"';
        if (n == MAX_WORDS) {
            return -1;
        }
        words[n++] = at += quoted;
        char *end = quoted ? strchr(at, '"') : at + strcspn(at, " \t");
        if (!end) {
            return -1;
        }
        at = *end ? end + 1 : end;
        *end = 0;
    }
    return n;
}

static int parse_pattern(struct import_pattern *out, const struct place *place, const char *word)
{
    size_t length = strlen(word);
    *out = (struct import_pattern){0};
    if (length < 2 || word[0] != '/' || word[length - 1] != '/') {
        out->glob = strdup(word);
        return out->glob ? 0 : status_fail(-ENOMEM, "%s: no memory for rules", place->where);
    }
    char text[MAX_LINE_BYTES], why[128];
    snprintf(text, sizeof text, "%.*s", (int)length - 2, word + 1);
    int code = regcomp(&out->regex, text, REG_EXTENDED);
    if (code == 0) {
        return 0;
    }
    regerror(code, &out->regex, why, sizeof why);
    // An empty glob stands where no expression does, so that it can be freed like any other.
    out->glob = strdup("");
    return wrong(place, "%.64s is no regular expression: %.100s", word, why);
}

static void free_pattern(struct import_pattern *pattern)
{
    if (pattern->glob) {
        free(pattern->glob);
    } else {
        regfree(&pattern->regex);
    }
}

// The number of a label, made where it is new; -1: there are too many, or it is none.
static int32_t find_label(struct import_rules *rules, const char *name)
{
    for (int32_t i = 0; i < rules->n_labels; i++) {
        if (strcmp(rules->labels[i], name) == 0) {
            return i;
        }
    }
    if (rules->n_labels == IMPORT_MAX_LABELS || !name[0] || strlen(name) >= sizeof rules->labels[0]) {
        return -1;
    }
    strcpy(rules->labels[rules->n_labels], name);
    return rules->n_labels++;
}

static int bad_label(const struct place *place, const char *name)
{
    return wrong(place, "label \"%.40s\": expected 1 to 31 characters, and at most %d labels", name, IMPORT_MAX_LABELS);
}

static int parse_step_word(struct import_step_rule *rule, const struct place *place, const char *word)
{
    if (strcmp(word, "fallback") == 0) {
        rule->fallback = true;
        return 0;
    }
    const char *equals = strchr(word, '=');
    for (int f = 0; equals && f < IMPORT_FIELDS; f++) {
        if (strlen(field_names[f]) == (size_t)(equals - word) &&
            strncmp(word, field_names[f], (size_t)(equals - word)) == 0) {
            int group = equals[1] >= '1' && equals[1] <= '9' && !equals[2] ? equals[1] - '0' : 0;
            if (group == 0 || rule->pattern.glob || (size_t)group > rule->pattern.regex.re_nsub) {
                return wrong(place, "%.40s: expected a number from 1 on of a group of the regular expression", word);
            }
            rule->group[f] = group;
            return 0;
        }
    }
    return wrong(place,
                 "%.40s: expected fallback, or prompts=, prompt_tokens=, prompt_keys=, answers=, answer_tokens=, "
                 "answer_keys= with the number of a group",
                 word);
}

static int parse_step(struct import_rules *rules, const struct place *place, char **words, int n)
{
    static const char *const phases[] = {"prefill", "decode", "mixed", "auto"};
    struct import_step_rule *rule = &rules->steps[rules->n_steps];
    int phase = 0;
    while (n > 2 && phase < 4 && strcmp(words[1], phases[phase]) != 0) {
        phase++;
    }
    if (n < 3 || phase == 4) {
        return wrong(place, "expected step prefill|decode|mixed|auto PATTERN [...]");
    }
    *rule = (struct import_step_rule){.automatic = phase == 3, .phase = phase == 3 ? PHASE_DECODE : (enum phase)phase};
    int error = parse_pattern(&rule->pattern, place, words[2]);
    rules->n_steps += error != -ENOMEM;    // freed with the others
    for (int i = 3; i < n && !error; i++) {
        error = parse_step_word(rule, place, words[i]);
    }
    if (!error && rule->automatic && !rule->group[IMPORT_PROMPTS] && !rule->group[IMPORT_ANSWERS]) {
        return wrong(place, "step auto needs prompts= or answers=, by which the phase is known");
    }
    return error;
}

static int parse_kernel_word(struct import_rules *rules, struct import_kernel_rule *rule, const struct place *place,
                             char *word)
{
    if (strcmp(word, "last") == 0) {
        rule->last = true;
        return 0;
    }
    if (strcmp(word, "as=same") == 0 && !rule->next) {
        rule->label = -1;
        return 0;
    }
    if (strncmp(word, "as=", 3) == 0 && !rule->next) {
        rule->label = find_label(rules, word + 3);
        return rule->label < 0 ? bad_label(place, word + 3) : 0;
    }
    if (strncmp(word, "after=", 6) != 0) {
        return wrong(place, "%.40s: expected after=LABEL[,LABEL...], last, or as=LABEL, which next cannot have", word);
    }
    char *rest = NULL;
    for (char *name = strtok_r(word + 6, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        int32_t label = find_label(rules, name);
        if (label < 0) {
            return bad_label(place, name);
        }
        rule->after |= UINT64_C(1) << label;
    }
    return rule->after ? 0 : wrong(place, "after=: expected a label");
}

static int parse_kernel(struct import_rules *rules, const struct place *place, char **words, int n)
{
    struct import_kernel_rule *rule = &rules->kernels[rules->n_kernels];
    int stage = 0;
    bool next = n > 2 && strcmp(words[1], "next") == 0;
    while (n > 2 && !next && stage < STAGE_COUNT && strcmp(words[1], stage_name((enum stage)stage)) != 0) {
        stage++;
    }
    if (n < 3 || stage == STAGE_COUNT) {
        return wrong(place,
                     "expected kernel STAGE PATTERN [...], with one of our stages (attention, ffn, ...) or next");
    }
    *rule = (struct import_kernel_rule){.next = next, .stage = (enum stage)stage, .label = -1};
    int error = parse_pattern(&rule->pattern, place, words[2]);
    rules->n_kernels += error != -ENOMEM;
    if (!error && !next) {
        rule->label = find_label(rules, words[1]);
        error = rule->label < 0 ? bad_label(place, words[1]) : 0;
    }
    for (int i = 3; i < n && !error; i++) {
        error = parse_kernel_word(rules, rule, place, words[i]);
    }
    return error;
}

static int parse_line(struct import_rules *rules, const struct place *place, char *line)
{
    char *words[MAX_WORDS];
    int n = cut_words(words, line);
    if (n <= 0) {
        return n == 0 ? 0 : wrong(place, "expected at most %d words, and quotes in pairs", MAX_WORDS);
    }
    if (rules->n_steps == IMPORT_MAX_RULES || rules->n_kernels == IMPORT_MAX_RULES) {
        return wrong(place, "more than %d rules", IMPORT_MAX_RULES);
    }
    if (strcmp(words[0], "step") == 0) {
        return parse_step(rules, place, words, n);
    }
    if (strcmp(words[0], "kernel") == 0) {
        return parse_kernel(rules, place, words, n);
    }
    if (strcmp(words[0], "layer") == 0 && n == 2 && rules->layer_label < 0) {
        rules->layer_label = find_label(rules, words[1]);
        return rules->layer_label < 0 ? bad_label(place, words[1]) : 0;
    }
    return wrong(place, "expected step, kernel, or one line: layer LABEL");
}

int import_rules_parse(struct import_rules **out, const char *text, size_t length, const char *where)
{
    struct import_rules *rules = calloc(1, sizeof *rules);
    struct place place = {.where = where};
    *out = NULL;
    int error = 0;
    if (rules) {
        rules->steps = calloc(IMPORT_MAX_RULES, sizeof *rules->steps);
        rules->kernels = calloc(IMPORT_MAX_RULES, sizeof *rules->kernels);
        rules->layer_label = -1;
        find_label(rules, "start");
    }
    if (!rules || !rules->steps || !rules->kernels) {
        error = status_fail(-ENOMEM, "%s: no memory for rules", where);
    }
    const char *end = text + length;
    for (const char *at = text; at < end && !error;) {
        char line[MAX_LINE_BYTES];
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((newline ? newline : end) - at);
        place.line++;
        if (n >= sizeof line || memchr(at, 0, n)) {
            error = wrong(&place, "expected a line of text, shorter than %d bytes", MAX_LINE_BYTES);
            break;
        }
        memcpy(line, at, n);
        line[n > 0 && line[n - 1] == '\r' ? n - 1 : n] = 0;
        error = parse_line(rules, &place, line);
        at += n + (newline != NULL);
    }
    if (!error && rules->n_kernels == 0) {
        error = status_fail(-EINVAL, "%s: no rule for a kernel", where);
    }
    if (error) {
        import_rules_free(rules);
        return error;
    }
    *out = rules;
    return 0;
}

int import_rules_load(struct import_rules **out, const char *path)
{
    if (!path) {
        return import_rules_parse(out, (const char *)serving_rules, serving_rules_bytes, "traces/rules/serving.rules");
    }
    *out = NULL;
    char *text;
    size_t length;
    int error = input_file_read(&text, &length, path, MAX_FILE_BYTES);
    error = error ? error : import_rules_parse(out, text, length, path);
    free(text);
    return error;
}

void import_rules_free(struct import_rules *rules)
{
    if (!rules) {
        return;
    }
    for (int32_t i = 0; i < rules->n_steps; i++) {
        free_pattern(&rules->steps[i].pattern);
    }
    for (int32_t i = 0; i < rules->n_kernels; i++) {
        free_pattern(&rules->kernels[i].pattern);
    }
    free(rules->steps);
    free(rules->kernels);
    free(rules);
}

bool import_pattern_fits(const struct import_pattern *pattern, const char *name)
{
    return pattern->glob ? fnmatch(pattern->glob, name, 0) == 0 : regexec(&pattern->regex, name, 0, NULL, 0) == 0;
}

bool import_step_fields(int64_t *fields, const struct import_step_rule *rule, const char *name)
{
    regmatch_t groups[MAX_GROUPS];
    memset(fields, 0, IMPORT_FIELDS * sizeof *fields);
    if (rule->pattern.glob) {
        return import_pattern_fits(&rule->pattern, name);
    }
    if (regexec(&rule->pattern.regex, name, MAX_GROUPS, groups, 0) != 0) {
        return false;
    }
    for (int f = 0; f < IMPORT_FIELDS; f++) {
        const regmatch_t *group = &groups[rule->group[f]];
        for (regoff_t at = group->rm_so; rule->group[f] > 0 && group->rm_so >= 0 && at < group->rm_eo; at++) {
            bool digit = name[at] >= '0' && name[at] <= '9';
            // No count of tokens is near that; what is longer is none.
            fields[f] = digit && fields[f] < INT64_C(1) << 50 ? 10 * fields[f] + (name[at] - '0') : fields[f];
        }
    }
    return true;
}
