// sim/calibration.c - asking a calibration: which curve, and where on it.
#include "sim/calibration_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// Points are bins an eighth of an octave wide: a place that close to one counts as measured.
static const double NEAR_OCTAVES = 1.1;    // grids four times apart have their middle one octave from a point
static const double SAME_OCTAVES = 0.25;
static const double MEASURED_OCTAVES = 0.125;
static const double MOST_HEAT_S = 0.1;     // as long a pause cools all
enum { HEATING_ROWS = 512 };               // an H200 multiplies 200 to 300 rows while it reads their weights

void calibration_free(struct calibration *calibration)
{
    if (!calibration) {
        return;
    }
    for (int32_t p = 0; p < calibration->n_profiles; p++) {
        for (int32_t c = 0; c < calibration->profiles[p].n_curves; c++) {
            free(calibration->profiles[p].curves[c].points);
        }
        free(calibration->profiles[p].curves);
    }
    free(calibration->profiles);
    free(calibration->traces);
    free(calibration);
}

enum dtype calibration_dtype(enum stage stage, enum dtype weight, enum dtype kv, enum dtype index)
{
    switch (stage) {
    case STAGE_QKV:
    case STAGE_INDEX_PROJECT:
    case STAGE_OUTPUT:
    case STAGE_FFN:
    case STAGE_HEAD: return weight;
    case STAGE_INDEX_SCORE: return index;
    case STAGE_WINDOW_ATTENTION: return kv == DTYPE_FP8 ? DTYPE_BF16 : kv;    // as rings are kept
    default: return kv;
    }
}

bool calibration_by_context(enum stage stage, enum phase phase, int32_t unit_tokens)
{
    bool selects = stage == STAGE_ATTENTION || stage == STAGE_INDEX_SELECT || stage == STAGE_INDEX_SCORE;
    return selects && phase == PHASE_PREFILL && unit_tokens > 0;
}

bool calibration_depends_on_unit(enum stage stage)
{
    return stage == STAGE_INDEX_SCORE || stage == STAGE_INDEX_SELECT || stage == STAGE_GATHER ||
           stage == STAGE_ATTENTION || stage == STAGE_HOST;
}

double calibration_heat_at(const struct calibration_heat *heat, double now_s)
{
    double left_s = heat->heat_s - (now_s - heat->end_s);
    return left_s > 0 ? left_s : 0;
}

void calibration_heat_step(struct calibration_heat *heat, double begin_s, double seconds, int64_t rows)
{
    if (rows >= HEATING_ROWS) {
        double heat_s = calibration_heat_at(heat, begin_s) + seconds;
        *heat = (struct calibration_heat){heat_s < MOST_HEAT_S ? heat_s : MOST_HEAT_S, begin_s + seconds};
    }
}

bool calibration_cool(const struct calibration_profile *profile, double heat_s, int64_t rows)
{
    return profile->warm_s > 0 && (rows < HEATING_ROWS || heat_s < profile->warm_s);
}

int32_t calibration_level_rows(int32_t rows)
{
    static const double eighths[] = {1, 1.0905077326652577, 1.189207115002721, 1.2968395546510096, 1.4142135623730951,
                                     1.5422108254079407, 1.681792830507429, 1.8340080864093424};    // 2^(i/8)
    static const double parts[] = {1, 1.0218971486541166, 1.0442737824274138, 1.0671404006768237};    // 2^(i/32)
    if (rows <= 16) {
        return rows;
    }
    int octave = 31 - __builtin_clz((unsigned)rows - 1), eighth = 7, part = 3;
    while (rows <= eighths[eighth] * (1 << octave)) {
        eighth--;
    }
    while (part > 0 && rows <= parts[part] * eighths[eighth] * (1 << octave)) {
        part--;
    }
    return (int32_t)floor(parts[part] * eighths[eighth] * (1 << octave)) + 1;
}

// The first point behind (rows, work): points ascend by rows, then by work.
static int32_t point_behind(const struct calibration_curve *curve, int32_t rows, double work)
{
    int32_t begin = 0, end = curve->n_points;
    while (begin < end) {
        int32_t middle = begin + (end - begin) / 2;
        const struct calibration_point *point = &curve->points[middle];
        if (point->rows > rows || (point->rows == rows && point->work > work)) {
            end = middle;
        } else {
            begin = middle + 1;
        }
    }
    return begin;
}

// The point at `index`, or the next one in `direction` where that is left out; NULL beyond the ends.
static const struct calibration_point *point_at(const struct calibration_curve *curve, int32_t index, int32_t skip,
                                                int32_t direction)
{
    index += index == skip ? direction : 0;
    return index >= 0 && index < curve->n_points ? &curve->points[index] : NULL;
}

// Among the points of one number of rows, without `skip`.
struct level {
    double efficiency;
    double nearest;    // octaves to the nearest point
    bool inside;       // between its first and its last point
};

// Where a kernel takes the same time whatever its work, its efficiency grows with the work: a straight line of
// logarithms.
static double between(double low, double high, double share, bool linear)
{
    return linear ? low + share * (high - low) : low * pow(high / low, share);
}

static struct level level_at(const struct calibration_curve *curve, int32_t rows, double work, int32_t skip,
                             bool linear)
{
    int32_t behind = point_behind(curve, rows, work);
    const struct calibration_point *below = point_at(curve, behind - 1, skip, -1);
    const struct calibration_point *above = point_at(curve, behind, skip, 1);
    below = below && below->rows == rows ? below : NULL;
    above = above && above->rows == rows ? above : NULL;
    struct level level = {.nearest = INFINITY, .inside = (below && above) || (below && below->work >= work)};
    if (below) {
        level.nearest = log2(work / below->work);
        level.efficiency = below->efficiency;
    }
    if (above) {
        double octaves = log2(above->work / work);
        if (below) {
            level.efficiency = between(below->efficiency, above->efficiency, level.nearest / (level.nearest + octaves),
                                       linear);
        } else {
            level.efficiency = above->efficiency;
        }
        level.nearest = octaves < level.nearest ? octaves : level.nearest;
    }
    return level;
}

static bool reads_weights(enum stage stage)
{
    return stage == STAGE_QKV || stage == STAGE_OUTPUT || stage == STAGE_FFN || stage == STAGE_INDEX_PROJECT ||
           stage == STAGE_HEAD;
}

// The work of `other` rows that do as much each, at the same contexts: of a product by the same weights, which are read
// once, whatever the rows: a weight's bytes, then two operations for every row. Where "rows" are what each sees, of as
// many rows that see so much, which for attention over a selection is the same work.
static double work_factor(const struct calibration_curve *curve, int32_t rows, int32_t other)
{
    double shared = reads_weights(curve->stage) ? 0.5 * dtype_bytes(curve->dtype) : 0;
    bool seen = calibration_by_context(curve->stage, curve->phase, curve->unit_tokens);
    return seen && curve->stage == STAGE_ATTENTION ? 1 : (other + shared) / (rows + shared);
}

// The same at the only level that is near. Beyond the most rows that were measured more of them are what longer
// contexts are: more to read for a kernel that is long enough already.
static double outer_factor(const struct calibration_curve *curve, int32_t rows, int32_t other)
{
    bool longer = rows > other && curve->phase == PHASE_DECODE && !reads_weights(curve->stage);
    return longer ? 1 : work_factor(curve, rows, other);
}

// How far works may be from the one asked for: of products as little as tells weights of one shape from another's.
static double near_octaves(const struct calibration_curve *curve)
{
    return reads_weights(curve->stage) ? SAME_OCTAVES : NEAR_OCTAVES;
}

// The numbers of rows to go by, below and above: the nearest that were measured with about that much work each; 0 and
// INT32_MAX where there is none. Without any, the nearest whatever their work. Decided for a quarter of an octave of
// work at once, so that it stays while works move little.
static void choose_levels(const struct calibration_curve *curve, int32_t rows, double work, int32_t skip, int32_t *low,
                          int32_t *high)
{
    double about = exp2((floor(4 * log2(work)) + 0.5) / 4);
    *low = 0;
    *high = INT32_MAX;
    for (int32_t at = point_behind(curve, rows, INFINITY) - 1; at >= 0 && *low == 0;) {
        int32_t level = curve->points[at].rows;
        double octaves = level_at(curve, level, about * work_factor(curve, rows, level), skip, true).nearest;
        *low = octaves <= near_octaves(curve) ? level : 0;
        at = point_behind(curve, level - 1, INFINITY) - 1;
    }
    if (*low == rows) {
        *high = rows;
        return;
    }
    for (int32_t at = point_behind(curve, rows, INFINITY); at < curve->n_points && *high == INT32_MAX;) {
        int32_t level = curve->points[at].rows;
        double octaves = level_at(curve, level, about * work_factor(curve, rows, level), skip, true).nearest;
        *high = octaves <= near_octaves(curve) ? level : INT32_MAX;
        at = point_behind(curve, level, INFINITY);
    }
    if (*low == 0 && *high == INT32_MAX) {
        const struct calibration_point *at_most = point_at(curve, point_behind(curve, rows, INFINITY) - 1, skip, -1);
        const struct calibration_point *at_least = point_at(curve, point_behind(curve, rows - 1, INFINITY), skip, 1);
        *low = at_most ? at_most->rows : 0;
        *high = at_least ? at_least->rows : INT32_MAX;
    }
}

bool calibration_curve_at(const struct calibration_curve *curve, int32_t rows, double work, int32_t skip, bool linear,
                          double *efficiency, enum provenance *provenance)
{
    int32_t low, high;
    choose_levels(curve, rows, work, skip, &low, &high);
    if (low == 0 && high == INT32_MAX) {
        return false;
    }
    if (low == 0 || high == INT32_MAX || low == high) {
        int32_t at = low == 0 ? high : low;
        struct level level = level_at(curve, at, work * outer_factor(curve, rows, at), skip, linear);
        *efficiency = level.efficiency;
        *provenance = low != high                          ? PROVENANCE_EXTRAPOLATED
                      : level.nearest <= MEASURED_OCTAVES ? PROVENANCE_MEASURED
                      : level.inside                      ? PROVENANCE_INTERPOLATED
                                                          : PROVENANCE_EXTRAPOLATED;
        return true;
    }
    struct level below = level_at(curve, low, work * work_factor(curve, rows, low), skip, linear);
    struct level above = level_at(curve, high, work * work_factor(curve, rows, high), skip, linear);
    double share = log2((double)rows / low) / log2((double)high / low);
    *efficiency = between(below.efficiency, above.efficiency, share, linear);
    bool near =
        (below.inside || below.nearest <= MEASURED_OCTAVES) && (above.inside || above.nearest <= MEASURED_OCTAVES);
    *provenance = near ? PROVENANCE_INTERPOLATED : PROVENANCE_EXTRAPOLATED;
    return true;
}

static bool has_phase(const struct calibration_profile *profile, enum stage stage, enum phase phase)
{
    bool found = false;
    for (int32_t c = 0; c < profile->n_curves && !found; c++) {
        found = profile->curves[c].stage == stage && profile->curves[c].phase == phase;
    }
    return found;
}

bool calibration_waits(const struct calibration_profile *profile)
{
    return has_phase(profile, STAGE_HOST, PHASE_DECODE);
}

enum calibration_layer calibration_layer_of(enum stage stage, const struct calibration_beside *beside)
{
    bool selecting = beside->indexers && !beside->windows;    // above a shared memory few rows of a prompt do
    bool clocked = selecting || beside->cool;
    switch (stage) {
    case STAGE_INDEX_PROJECT: return beside->windows ? LAYER_MEMORY : LAYER_ANY;
    case STAGE_QKV:
    case STAGE_OUTPUT:
    case STAGE_FFN: return clocked ? LAYER_SELECTING : LAYER_ANY;
    case STAGE_WINDOW_ATTENTION: return beside->cool ? LAYER_SELECTING : LAYER_ANY;
    case STAGE_ATTENTION:
        return beside->whole && clocked ? LAYER_SELECTING : beside->lightning ? LAYER_LIGHTNING : LAYER_ANY;
    case STAGE_HOST:
    case STAGE_INDEX_SELECT: return beside->taking ? LAYER_TAKING : LAYER_ANY;
    case STAGE_KV_WRITE: break;
    default: return LAYER_ANY;
    }
    if (beside->window) {
        return LAYER_WINDOW;
    }
    if (beside->keys) {
        return beside->windows ? LAYER_MEMORY : LAYER_INDEXED;
    }
    if (beside->bounds) {
        return LAYER_BOUNDED;
    }
    return selecting ? LAYER_SELECTING : LAYER_ANY;
}

static bool has_layer(const struct calibration_profile *profile, enum stage stage, enum phase phase,
                      enum calibration_layer layer)
{
    bool found = false;
    for (int32_t c = 0; c < profile->n_curves && !found; c++) {
        const struct calibration_curve *curve = &profile->curves[c];
        found = curve->stage == stage && curve->phase == phase && curve->layer == layer;
    }
    return found;
}

// The kind of layer that a profile tells apart: its own, or the coarser one that it was counted with.
static enum calibration_layer known_layer(const struct calibration_profile *profile,
                                          const struct calibration_query *query, enum phase phase)
{
    enum calibration_layer layer = query->layer;
    if (layer == LAYER_MEMORY && !has_layer(profile, query->stage, phase, layer)) {
        layer = query->stage == STAGE_KV_WRITE ? LAYER_INDEXED : LAYER_ANY;
    }
    bool finer = layer == LAYER_SELECTING || layer == LAYER_TAKING || layer == LAYER_LIGHTNING;
    return finer && !has_layer(profile, query->stage, phase, layer) ? LAYER_ANY : layer;
}

// The curve for a query; *score is 3 where it is that one's own.
static const struct calibration_curve *find_curve(const struct calibration_profile *profile,
                                                  const struct calibration_query *query, int *best_score)
{
    const struct calibration_curve *best = NULL;
    enum phase phase =
        query->phase == PHASE_MIXED && !has_phase(profile, query->stage, PHASE_MIXED) ? PHASE_DECODE : query->phase;
    int32_t unit_tokens = calibration_depends_on_unit(query->stage) ? query->unit_tokens : 0;
    enum calibration_layer layer = known_layer(profile, query, phase);
    *best_score = -1;
    for (int32_t c = 0; c < profile->n_curves && *best_score < 3; c++) {
        const struct calibration_curve *curve = &profile->curves[c];
        if (curve->stage != query->stage || curve->phase != phase) {
            continue;
        }
        // How keys are chosen changes a kernel more than their type does.
        int score = 2 * (curve->unit_tokens == unit_tokens && curve->layer == layer) + (curve->dtype == query->dtype);
        if (score > *best_score) {
            best = curve;
            *best_score = score;
        }
    }
    return best;
}

bool calibration_ask(struct calibration_answer *out, const struct calibration_profile *profile,
                     const struct calibration_query *query)
{
    int best_score;
    const struct calibration_curve *best = find_curve(profile, query, &best_score);
    if (!best || !calibration_curve_at(best, calibration_level_rows(query->rows), query->work, -1, false,
                                       &out->efficiency, &out->provenance)) {
        return false;
    }
    out->floor_s = best->floor_s;
    if (best_score < 3) {
        out->provenance = PROVENANCE_EXTRAPOLATED;
    }
    // A point that stands alone is predicted from ones that say nothing of it: more than all of a time is "unknown".
    out->off_share = best->calibrated.n > 1 ? fmin(best->calibrated.p95, 1) : NAN;
    out->off_share *= out->provenance == PROVENANCE_EXTRAPOLATED ? 2 : 1;
    return true;
}

// Adds one level's line, `share` of it, and cuts the stretch at its points.
static void add_line(struct calibration_stretch *out, const struct calibration_curve *curve, int32_t rows,
                     double factor, double work, double share)
{
    work *= factor;
    int32_t behind = point_behind(curve, rows, work);
    const struct calibration_point *below = point_at(curve, behind - 1, -1, -1),
                                   *above = point_at(curve, behind, -1, 1);
    below = below && below->rows == rows ? below : NULL;
    above = above && above->rows == rows ? above : NULL;
    const struct calibration_point *one = below ? below : above;
    double slope = below && above ? log(above->efficiency / below->efficiency) / log(above->work / below->work) : 0;
    out->slope += share * slope;
    out->log_efficiency += share * (log(one->efficiency) - slope * log(one->work / factor));
    out->from_work = below && below->work / factor > out->from_work ? below->work / factor : out->from_work;
    out->to_work = above && above->work / factor < out->to_work ? above->work / factor : out->to_work;
}

bool calibration_stretch(struct calibration_stretch *out, const struct calibration_profile *profile,
                         const struct calibration_query *query)
{
    int score;
    const struct calibration_curve *curve = find_curve(profile, query, &score);
    if (!curve || curve->n_points == 0) {
        return false;
    }
    int32_t rows = calibration_level_rows(query->rows), low, high;
    double quarter = floor(4 * log2(query->work));
    choose_levels(curve, rows, query->work, -1, &low, &high);
    *out = (struct calibration_stretch){.phase = query->phase, .rows = query->rows, .from_work = exp2(quarter / 4),
                                        .to_work = exp2((quarter + 1) / 4), .floor_s = curve->floor_s};
    if (low == 0 || high == INT32_MAX || low == high) {
        int32_t at = low == 0 ? high : low;
        add_line(out, curve, at, outer_factor(curve, rows, at), query->work, 1);
    } else {
        double share = log2((double)rows / low) / log2((double)high / low);
        add_line(out, curve, low, work_factor(curve, rows, low), query->work, 1 - share);
        add_line(out, curve, high, work_factor(curve, rows, high), query->work, share);
    }
    return true;
}

// "AMD EPYC" of "AMD EPYC, 2 threads".
static bool same_processor(const char *samples, const char *device)
{
    const char *comma = strrchr(samples, ',');
    return comma && strlen(device) == (size_t)(comma - samples) &&
           strncasecmp(samples, device, (size_t)(comma - samples)) == 0;
}

const struct calibration_profile *calibration_find(const struct calibration *calibration, const char *device,
                                                   const char *backend)
{
    for (int32_t p = 0; p < calibration->n_profiles; p++) {
        const struct calibration_profile *profile = &calibration->profiles[p];
        bool same = strcasecmp(profile->rates.name, device) == 0 || strcasecmp(profile->device, device) == 0 ||
                    same_processor(profile->device, device);
        if (same &&
            (!backend || strncmp(profile->backend, backend, strlen(backend)) == 0)) {
            return profile;
        }
    }
    return NULL;
}

// The widest known rate: of bf16 where there is one, else of f32.
static double matrix_rate(const struct device *device)
{
    const struct device_figure *rate = device_rate(device, DTYPE_BF16);
    return rate ? rate->value : 1;
}

const struct calibration_profile *calibration_nearest(const struct calibration *calibration,
                                                      const struct device *device)
{
    const struct calibration_profile *nearest = NULL;
    double least = INFINITY;
    for (int32_t p = 0; p < calibration->n_profiles; p++) {
        const struct device *rates = &calibration->profiles[p].rates;
        double distance = fabs(log(rates->bytes_per_s.value / device->bytes_per_s.value)) +
                          fabs(log(matrix_rate(rates) / matrix_rate(device)));
        if (distance < least) {
            least = distance;
            nearest = &calibration->profiles[p];
        }
    }
    return nearest;
}
