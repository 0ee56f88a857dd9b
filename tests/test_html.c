// tests/test_html.c - reports: what is drawn is what the table holds, in its place, and nothing leads outside.
#include <unistd.h>

#include "cli/html.h"
#include "engine/status.h"
#include "tests/check.h"

static char page[1 << 20];

static const struct table_column columns[] = {{"name", "name", -1}, {"x", "x", 1}, {"y", "y", 2}};

static void add(struct table *table, const char *name, double x, double y)
{
    table_row(table);
    table_text(table, "name", name);
    table_number(table, "x", x);
    table_number(table, "y", y);
}

static int count(const char *what)
{
    int n = 0;
    for (const char *at = page; (at = strstr(at, what)); at++) {
        n++;
    }
    return n;
}

// Writes a page of the table and reads it back.
static void write_page(const struct table *table, const struct html_lines *lines, const struct html_bars *bars)
{
    char path[] = "/tmp/clsa-html-XXXXXX";
    struct html *html;
    int descriptor = mkstemp(path);
    CHECK(descriptor >= 0 && close(descriptor) == 0);
    CHECK_MESSAGE(html_open(&html, path, "a & b") == 0, "%s", status_text());
    html_table(html, "all", table);
    if (lines) {
        html_lines(html, table, lines);
    }
    if (bars) {
        html_bars(html, table, bars);
    }
    CHECK(html_close(html) == 0);
    FILE *stream = fopen(path, "r");
    CHECK(stream != NULL);
    page[stream ? fread(page, 1, sizeof page - 1, stream) : 0] = 0;
    if (stream) {
        fclose(stream);
    }
    CHECK(unlink(path) == 0);
    CHECK(strncmp(page, "<!DOCTYPE html>", 15) == 0 && strstr(page, "</html>") && strstr(page, "a &amp; b"));
    CHECK_MESSAGE(!strstr(page, "http") && !strstr(page, "<script") && !strstr(page, "src="), "the page leads outside");
    CHECK_MESSAGE(!strstr(page, "nan") && !strstr(page, "inf"), "something without a place was drawn");
}

static void test_lines(void)
{
    struct table *table = table_open("t", columns, 3);
    double low = 1 + check_uniform(), high = 100 + check_uniform();
    add(table, "<one>", 10, low);
    add(table, "<one>", 1000, high);
    add(table, "two", 100, sqrt(low * high));    // the middle of both logarithmic axes
    add(table, "two", 0, 5);                     // no place on a logarithmic axis
    add(table, "three", 50, NAN);
    struct html_lines lines = {.caption = "c",
                               .x = "x",
                               .x_title = "x",
                               .y = "y",
                               .y_title = "y",
                               .by = {"name"},
                               .n_by = 1,
                               .log_x = true,
                               .log_y = true};
    write_page(table, &lines, NULL);
    CHECK(count("<tr>") == 6 && count("&lt;one&gt;") == 2 + 2 + 1 && count("<one>") == 0);
    CHECK(count("<circle") == 3 && count("stroke-width=\"1.5\"") == 2);
    CHECK_MESSAGE(strstr(page, "cx=\"80.0\" cy=\"312.0\"") && strstr(page, "cx=\"700.0\" cy=\"16.0\""),
                  "ends are misplaced");
    CHECK_MESSAGE(strstr(page, "cx=\"390.0\" cy=\"164.0\""), "the middle is misplaced");
    CHECK(strstr(page, ">-</td>") != NULL);    // what is unknown
    table_close(table);
    // An axis that spans little of a decade has more than one figure.
    table = table_open("t", columns, 3);
    add(table, "one", 1, 2400);
    add(table, "one", 2, 6100);
    write_page(table, &lines, NULL);
    CHECK(strstr(page, ">3000</text>") && strstr(page, ">4000</text>") && strstr(page, ">6000</text>"));
    table_close(table);
}

// Every name of a long legend is inside the picture.
static void test_legend(void)
{
    struct table *table = table_open("t", columns, 3);
    struct html_lines lines = {
        .caption = "c", .x = "x", .x_title = "x", .y = "y", .y_title = "y", .by = {"name"}, .n_by = 1};
    for (int i = 0; i < 40; i++) {
        char name[16];
        snprintf(name, sizeof name, "series %d", i);
        add(table, name, i, i);
    }
    write_page(table, &lines, NULL);
    const char *picture = strstr(page, "<svg"), *last = strstr(page, ">series 39</text>");
    int height = 0, y = 0;
    CHECK(picture && sscanf(picture, "<svg width=\"%*d\" height=\"%d\"", &height) == 1);
    while (last && last > page && strncmp(last, "y=\"", 3) != 0) {
        last--;
    }
    CHECK(last && sscanf(last, "y=\"%d\"", &y) == 1);
    CHECK_MESSAGE(y > 0 && y < height, "the last name is at %d of %d", y, height);
    table_close(table);
}

static void test_bars(void)
{
    struct table *table = table_open("t", columns, 3);
    add(table, "a", 1, 30);
    add(table, "b", 1, 10);
    add(table, "a", 2, 20);
    struct html_bars bars = {
        .caption = "c", .part = "name", .value = "y", .value_title = "y", .by = {"name"}, .n_by = 1};
    write_page(table, NULL, &bars);
    // a: 30 + 20 fill the width, 340; b: a fifth of that.
    CHECK_MESSAGE(strstr(page, "width=\"204.00\"") && strstr(page, "width=\"136.00\"") &&
                      strstr(page, "width=\"68.00\""),
                  "%s", strstr(page, "<svg"));
    CHECK(strstr(page, ">50</text>") && strstr(page, ">10</text>") && !strstr(page, ">-</text>"));
    add(table, "unknown", 3, NAN);    // is not 0
    write_page(table, NULL, &bars);
    CHECK(strstr(page, ">-</text>") && !strstr(page, ">0</text>"));
    table_close(table);
}

static void test_failures(void)
{
    struct html *html;
    CHECK(html_open(&html, "/nowhere/at/all.html", "t") != 0 && html == NULL && strstr(status_text(), "/nowhere/at"));
    CHECK(html_close(NULL) == 0);
    html_abandon(NULL);
    struct table *empty = table_open("t", columns, 3);
    write_page(empty, NULL, NULL);
    CHECK(count("<table") == 0);
    table_close(empty);
}

int main(void)
{
    check_begin();
    test_lines();
    test_legend();
    test_bars();
    test_failures();
    return check_end();
}
