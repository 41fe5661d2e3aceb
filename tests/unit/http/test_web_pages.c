/* What pages may do, and messages as JSON. */
#include <jansson.h>
#include <math.h>

#include "daemon/http/message_json.h"
#include "daemon/http/pages.h"
#include "daemon/http/pages_embedded.h"
#include "proto/gemmad.pb-c.h"
#include "tests/test.h"

TEST(a_policy_names_script_and_style) {
    static const char html[] = "<style>b{}</style><body><script>alert(1)</script>";
    strbuf policy = {0};
    pages_policy((const unsigned char *)html, sizeof html - 1, &policy);
    /* printf 'alert(1)' | openssl dgst -sha256 -binary | base64 */
    CHECK_THAT(
        strstr(strbuf_text(&policy), "script-src 'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"),
        "%s", strbuf_text(&policy));
    CHECK(strstr(strbuf_text(&policy), "default-src 'none'") && !strstr(strbuf_text(&policy), "unsafe"));
    strbuf_close(&policy);
}

/* Nothing from elsewhere, no markup made of text, nothing that the policy would refuse. */
TEST(pages_stand_alone) {
    const struct {
        const unsigned char *html;
        size_t bytes;
    } page[] = {{page_status, page_status_bytes}, {page_chat, page_chat_bytes}};
    static const char *const never[] = {"innerHTML", "insertAdjacentHTML", "document.write", "eval(",
                                        "http://",   "https://",           "<iframe",        " style=\"",
                                        " onclick",  "localStorage"};
    for (size_t i = 0; i < 2; i++) {
        CHECK(page[i].bytes > 1000 && page[i].bytes < 64 << 10);
        for (size_t k = 0; k < sizeof never / sizeof *never; k++) {
            const unsigned char *at = memmem(page[i].html, page[i].bytes, never[k], strlen(never[k]));
            /* The name of SVG elements is no address that is asked for. */
            while (at && !strncmp((const char *)at, "http://www.w3.org/2000/svg", 26))
                at = memmem(at + 1, page[i].bytes - (size_t)(at + 1 - page[i].html), never[k],
                            strlen(never[k]));
            CHECK_THAT(!at, "page %zu has %s", i, never[k]);
        }
    }
}

TEST(messages_are_json) {
    Gemmad__V1__RankStatus rank = GEMMAD__V1__RANK_STATUS__INIT, *ranks[] = {&rank};
    Gemmad__V1__EngineStatus served = GEMMAD__V1__ENGINE_STATUS__INIT, *engines[] = {&served};
    Gemmad__V1__ModelStatus model = GEMMAD__V1__MODEL_STATUS__INIT, *models[] = {&model};
    Gemmad__V1__GetStatusResponse answer = GEMMAD__V1__GET_STATUS_RESPONSE__INIT;
    rank.has_pid = rank.has_cpu_ms = 1;
    rank.pid = UINT32_MAX;
    rank.cpu_ms = INT64_MAX;
    rank.host = (char *)"a\"b\n";
    served.ranks = ranks;
    served.n_ranks = 1;
    served.has_imbalance = served.has_weight_bytes_per_second = 1;
    served.imbalance = NAN;
    served.weight_bytes_per_second = 1.5e9;
    model.engines = engines;
    model.n_engines = 1;
    answer.models = models;
    answer.n_models = 1;
    strbuf text = {0};
    message_json(&text, NULL, &answer.base);
    json_t *root = json_loads(strbuf_text(&text), JSON_REJECT_DUPLICATES, NULL);
    CHECK_THAT(root, "%s", strbuf_text(&text));
    json_t *e =
        json_array_get(json_object_get(json_array_get(json_object_get(root, "models"), 0), "engines"), 0);
    json_t *r = json_array_get(json_object_get(e, "ranks"), 0);
    CHECK(json_is_null(json_object_get(root, "state")) &&
          json_is_null(json_object_get(root, "requests_running")));
    CHECK(json_is_null(json_object_get(e, "imbalance")));
    CHECK(json_real_value(json_object_get(e, "weight_bytes_per_second")) == 1.5e9 ||
          json_integer_value(json_object_get(e, "weight_bytes_per_second")) == 1500000000);
    CHECK(json_integer_value(json_object_get(r, "pid")) == UINT32_MAX &&
          json_integer_value(json_object_get(r, "cpu_ms")) == INT64_MAX);
    CHECK(!strcmp(json_string_value(json_object_get(r, "host")), "a\"b\n"));
    json_decref(root);
    strbuf_close(&text);
}

int main(void) {
    RUN(a_policy_names_script_and_style);
    RUN(pages_stand_alone);
    RUN(messages_are_json);
    return test_result();
}
