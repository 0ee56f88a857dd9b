// tui/whatif_json.c - scenarios and their answers for other programs.
#include <jansson.h>
#include <math.h>

#include "tui/whatif.h"

static void put_number(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, isfinite(value) ? json_real(value) : json_null());
}

static json_t *describe(const struct whatif *whatif, const struct scenario *scenario,
                        const struct scenario_answer *answer)
{
    json_t *object = json_object(), *asked = json_object();
    for (int knob = 0; knob < KNOB_N; knob++) {
        char text[128];
        whatif_value(whatif, scenario, answer, (enum knob)knob, text, sizeof text);
        if (knob_is_number((enum knob)knob)) {
            json_object_set_new(asked, knob_name((enum knob)knob), json_integer(scenario->knobs[knob]));
        } else {
            json_object_set_new(asked, knob_name((enum knob)knob), json_string(text));
        }
    }
    json_object_set_new(object, "scenario", asked);
    if (!answer->valid) {
        json_object_set_new(object, "error", json_string(answer->why));
        return object;
    }
    const struct request_prediction *request = &answer->request;
    put_number(object, "prefill_s", request->prefill_s);
    put_number(object, "ttft_s", request->ttft_s);
    put_number(object, "first_decode_step_s", request->first_decode_step_s);
    put_number(object, "last_decode_step_s", request->last_decode_step_s);
    put_number(object, "end_to_end_s", request->end_to_end_s);
    put_number(object, "decode_tokens_per_s", answer->decode_tokens_per_s);
    put_number(object, "price_per_million_output_tokens", answer->price_per_million);
    json_object_set_new(object, "weight_bytes", json_integer(request->weight_bytes));
    json_object_set_new(object, "kv_bytes_per_sequence", json_integer(request->kv_bytes_per_seq));
    json_object_set_new(object, "max_sequences", json_integer(request->max_seqs));
    json_object_set_new(object, "fits", json_boolean(answer->fits));
    json_object_set_new(object, "fleet_devices", answer->fleet > 0 ? json_integer(answer->fleet) : json_null());
    json_object_set_new(object, "provenance", json_string(provenance_name(request->provenance)));
    return object;
}

void whatif_write_json(const struct whatif *whatif, FILE *stream)
{
    json_t *all = json_array();
    json_array_append_new(all, describe(whatif, &whatif->now, &whatif->answer));
    for (int32_t i = 0; i < whatif->n_pinned; i++) {
        json_array_append_new(all, describe(whatif, &whatif->pinned[i], &whatif->pinned_answers[i]));
    }
    json_dumpf(all, stream, JSON_INDENT(2));
    fputc('\n', stream);
    json_decref(all);
}
