#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"
#include "shard/model/weights.h"
#include "shard/model/weights_table.h"
#include "tests/golden_reader.h"
#include "tests/test.h"

static const char *const models[] = {"golden/dense",  "golden/dense-realheads", "golden/moe",       "golden/moe-128x8",
                                     "golden/e2b",    "golden/e4b",             "models/tiny-dense", "models/tiny-moe"};
enum { MODELS = sizeof models / sizeof *models };

TEST(every_model_loads) {
    for (int m = 0; m < MODELS; m++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", TEST_DATA, models[m]);
        model_config *config;
        checkpoint *c;
        CHECK_STATUS(model_config_open(&config, path, NULL), ST_OK);
        CHECK_STATUS(checkpoint_open(&c, path), ST_OK);
        for (uint32_t ranks = 1; ranks <= config->heads; ranks++) {
            if (config->heads % ranks) continue;
            for (uint32_t rank = 0; rank < ranks; rank++) {
                layout *l;
                model_weights *w;
                CHECK_STATUS(layout_open(&l, config, &(layout_options){.ranks = ranks, .rank = rank, .group = 1}), ST_OK);
                CHECK_STATUS(model_weights_open(&w, c, config, l, &(model_weights_options){.threads = 3}), ST_OK);
                CHECK_THAT(w->bytes_read == w->bytes_expected, "%s %u/%u %llu %llu", models[m], rank, ranks,
                           (unsigned long long)w->bytes_read, (unsigned long long)w->bytes_expected);
                CHECK(w->bytes == model_weights_plan_bytes(config, l, WEIGHT_BF16, false));
                model_weights_close(w);
                layout_close(l);
            }
        }
        checkpoint_close(c);
        model_config_close(config);
    }
}

int main(void) {
    RUN(every_model_loads);
    return test_result();
}
