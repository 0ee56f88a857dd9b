// cli/paper_figures.c - see paper_figures.h.
#include "cli/paper_figures.h"

const struct paper_figures paper_figures[PAPER_FIGURES] = {
    {"dense", 8192, 4722, 4763, 2990},
    {"yoco", 8192, 10884, 5517, 4312},
    {"clsa", 8192, 9623, 6742, 4920},
    {"dense", 32768, 2889, 1762, 570},
    {"yoco", 32768, 18450, 2677, 1833},
    {"clsa", 32768, 18163, 5461, 2805},
    {"dense", 131072, 1019.06, 431.16, 62.53},
    {"yoco", 131072, 20865, 961, 599},
    {"clsa", 131072, 20741.51, 3276.80, 1068.06},
};

double paper_select_s(double scores)
{
    static const double published_s = 2.56e-3, published_scores = 32.0 * 131072;
    return published_s * scores / published_scores;
}
