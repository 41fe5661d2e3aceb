/* Requests as the endpoints read them, and pieces of their answers. */
#include "daemon/http/chat_answer.h"
#include "daemon/http/chat_body.h"
#include "daemon/http/completion_body.h"
#include "daemon/http/fault.h"
#include "daemon/http/response_answer.h"
#include "daemon/http/response_body.h"
#include "daemon/http/token_text.h"
#include "tests/test.h"

static body b;
static chat_body chat;
static completion_body completion;
static response_body response;

static status read_chat(const char *text) {
    chat = (chat_body){0};
    TRY(body_open(&b, text, strlen(text)));
    return chat_body_read(&b, &chat);
}

static status read_completion(const char *text) {
    completion = (completion_body){0};
    TRY(body_open(&b, text, strlen(text)));
    return completion_body_read(&b, &completion);
}

static status read_response(const char *text) {
    response = (response_body){0};
    TRY(body_open(&b, text, strlen(text)));
    return response_body_read(&b, &response);
}

static bool is_text(ProtobufCBinaryData d, const char *want) {
    return d.len == strlen(want) && !memcmp(d.data, want, d.len);
}

#define USER "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"

TEST(a_chat_with_everything) {
    CHECK_STATUS(
        read_chat(
            "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"Be \\u0000 brief\"},"
            "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":"
            "\"b\"}]},"
            "{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"r\",\"tool_calls\":[{\"id\":"
            "\"c1\",\"type\":"
            "\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"z\": 1.50, \"a\": 2}}}]},"
            "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"\"}],"
            "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"b\":1,\"a\":2}}"
            "}],"
            "\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}},\"parallel_tool_calls\":"
            "false,"
            "\"max_completion_tokens\":7,\"temperature\":0.5,\"stop\":\"x\",\"seed\":-1,\"top_k\":-1,\"n\":2,"
            "\"logit_bias\":{\"5\":-1.5},\"stop_token_ids\":[3],\"priority\":-4,\"logprobs\":true,\"top_"
            "logprobs\":4,"
            "\"reasoning_effort\":\"low\",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
            "\"user\":{\"any\":1},"
            "\"top_p\":null,\"best_of\":1,\"response_format\":{\"type\":\"choice\",\"choices\":[\"y\",\"n\"]}"
            "}"),
        ST_OK);
    const Gemmad__V1__ChatRequest *r = &chat.request;
    const Gemmad__V1__Sampling *s = r->sampling;
    CHECK(!strcmp(r->model, "m") && r->n_messages == 4 && r->enable_thinking && !r->parallel_tool_calls &&
          r->priority == -4);
    CHECK(!strcmp(r->messages[0]->role, "developer") && r->messages[0]->content[0]->text.len == 10);
    CHECK(r->messages[1]->n_content == 2 && is_text(r->messages[1]->content[1]->text, "b"));
    CHECK(r->messages[2]->n_content == 0 && is_text(r->messages[2]->reasoning, "r"));
    CHECK(!strcmp(r->messages[2]->tool_calls[0]->arguments_json, "{\"z\":1.50,\"a\":2}"));
    CHECK(!strcmp(r->messages[3]->tool_call_id, "c1") && r->messages[3]->n_content == 1);
    CHECK(!strcmp(r->tools[0]->parameters_json, "{\"b\":1,\"a\":2}") &&
          !strcmp(r->tool_choice->mode, "named"));
    CHECK(s->max_tokens == 7 && s->temperature == 0.5F && s->n_stop == 1 && s->seed == UINT64_MAX &&
          s->has_top_k && s->top_k == 0);
    CHECK(s->n == 2 && s->logit_bias[0]->token_id == 5 && s->stop_token_ids[0] == 3 && s->logprobs == 4 &&
          !s->has_top_p);
    CHECK(chat.common.stream && chat.common.include_usage && r->response_format->choices->n_choices == 2);
    body_close(&b);
    CHECK_STATUS(read_chat("{" USER "}"), ST_OK);
    CHECK(!chat.request.has_enable_thinking && !chat.common.sampling.has_max_tokens &&
          !chat.request.response_format);
    body_close(&b);
}

static void check_refused(status (*read)(const char *), const char *text, const char *param, const char *word,
                          const char *part) {
    CHECK(read(text) != ST_OK);
    CHECK_THAT(!strcmp(b.param, param), "\"%s\" of %s", b.param, text);
    CHECK_THAT(b.word && !strcmp(b.word, word), "\"%s\" of %s", b.word ? b.word : "", text);
    CHECK_SENTENCE(part);
    body_close(&b);
    strbuf_close(&response.echo);
}

TEST(refusals_name_the_field) {
    check_refused(read_chat, "nonsense", "", "invalid_json", "byte 0");
    check_refused(read_chat, "[1]", "", "invalid_json", "not a JSON object");
    check_refused(read_chat, "{}", "messages", "invalid_value", "one message or more");
    check_refused(read_chat, "{" USER ",\"max_token\":1}", "max_token", "unknown_parameter",
                  "max_token is no field");
    check_refused(read_chat, "{" USER ",\"best_of\":3}", "best_of", "unsupported_parameter", "use n");
    check_refused(read_chat, "{" USER ",\"max_tokens\":0}", "max_tokens", "invalid_value",
                  "it is 0, and must be");
    check_refused(read_chat, "{" USER ",\"max_tokens\":1,\"max_completion_tokens\":2}",
                  "max_completion_tokens", "invalid_value", "one of them");
    check_refused(read_chat, "{" USER ",\"n\":65}", "n", "invalid_value", "1 to 64");
    check_refused(read_chat, "{" USER ",\"temperature\":1e999}", "temperature", "invalid_value",
                  "must be a number");
    check_refused(read_chat, "{" USER ",\"temperature\":2.5}", "temperature", "invalid_value", "it is 2.5");
    check_refused(read_chat, "{" USER ",\"top_logprobs\":1}", "top_logprobs", "invalid_value",
                  "\"logprobs\": true");
    check_refused(read_chat, "{" USER ",\"stream_options\":{}}", "stream_options", "invalid_value",
                  "\"stream\": true");
    check_refused(read_chat, "{" USER ",\"guided_regex\":\"a\",\"guided_json\":{}}", "guided_regex",
                  "invalid_value", "both given");
    check_refused(read_chat, "{" USER ",\"response_format\":{\"type\":\"json_schema\"}}", "response_format",
                  "invalid_value", "schema is missing");
    check_refused(read_chat, "{" USER ",\"model\":\"a\\u0000b\"}", "model", "invalid_value", "U+0000");
    check_refused(read_chat, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}]}",
                  "messages[0].content[0]", "unsupported_parameter", "input_audio");
    check_refused(read_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"tone\":1}]}",
                  "messages[0].tone", "unknown_parameter", "tone");
    check_refused(read_completion, "{\"prompt\":[]}", "prompt", "invalid_value", "not empty");
    check_refused(read_completion, "{\"prompt\":[[1],[-1]]}", "prompt[1]", "invalid_value", "element 0");
    check_refused(read_completion, "{\"prompt\":\"a\",\"max_tokens\":0}", "max_tokens", "invalid_value",
                  "1 to");
    check_refused(read_completion, "{\"prompt\":\"a\",\"suffix\":\"b\"}", "suffix", "unsupported_parameter",
                  "fills no gaps");
    check_refused(read_completion, "{\"prompt\":\"a\",\"echo\":true,\"logprobs\":1,\"n\":2,\"stream\":true}",
                  "stream", "unsupported_parameter", "whole only");
    check_refused(read_response, "{\"input\":\"a\",\"previous_response_id\":\"r\"}", "previous_response_id",
                  "unsupported_parameter", "nothing is stored");
    check_refused(read_response, "{\"input\":\"a\",\"store\":true}", "store", "unsupported_parameter",
                  "nothing is stored");
    check_refused(read_response, "{\"input\":[]}", "input", "invalid_value", "one item or more");
}

TEST(prompts_of_completions) {
    CHECK_STATUS(
        read_completion("{\"prompt\":[[2,5],[7]],\"echo\":true,\"logprobs\":1,\"max_tokens\":0,\"n\":3}"),
        ST_OK);
    CHECK(completion.count == 2 && completion.no_tokens && completion.common.sampling.max_tokens == 1);
    CHECK(completion.prompt[1].request.token_ids->n_ids == 1 &&
          completion.prompt[1].request.token_ids->ids[0] == 7);
    CHECK(completion.common.sampling.want_prompt_logprobs && completion.common.sampling.prompt_logprobs == 1);
    body_close(&b);
    CHECK_STATUS(read_completion("{\"prompt\":[4,5,6]}"), ST_OK);
    CHECK(completion.count == 1 && completion.prompt[0].ids.n_ids == 3 &&
          completion.common.sampling.max_tokens == 16);
    body_close(&b);
    CHECK_STATUS(read_completion("{\"prompt\":[\"a\",\"\\u00e9\"],\"guided_regex\":\"[ab]\"}"), ST_OK);
    CHECK(completion.count == 2 && is_text(completion.prompt[1].request.text, "\xC3\xA9"));
    CHECK(!strcmp(completion.prompt[0].request.response_format->regex, "[ab]"));
    body_close(&b);
}

TEST(items_of_responses_become_messages) {
    CHECK_STATUS(
        read_response("{\"instructions\":\"i\",\"input\":[{\"role\":\"user\",\"content\":\"q\"},"
                      "{\"type\":\"reasoning\",\"content\":[{\"type\":\"reasoning_text\",\"text\":\"t\"}]},"
                      "{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\","
                      "\"text\":\"s\"}]},"
                      "{\"type\":\"function_call\",\"call_id\":\"1\",\"name\":\"f\",\"arguments\":\"{}\"},"
                      "{\"type\":\"function_call\",\"call_id\":\"2\",\"name\":\"g\",\"arguments\":\"\"},"
                      "{\"type\":\"function_call_output\",\"call_id\":\"1\",\"output\":\"o\"}],"
                      "\"reasoning\":{\"effort\":\"none\"},\"text\":{\"format\":{\"type\":\"json_schema\","
                      "\"name\":\"x\","
                      "\"schema\":{\"type\":\"object\"}}},\"metadata\":{\"k\":\"v\"}}"),
        ST_OK);
    const Gemmad__V1__ChatRequest *r = &response.request;
    CHECK(r->n_messages == 4 && !strcmp(r->messages[0]->role, "system") &&
          !strcmp(r->messages[3]->role, "tool"));
    const Gemmad__V1__Message *m = r->messages[2];
    CHECK(is_text(m->reasoning, "t") && is_text(m->content[0]->text, "s") && m->n_tool_calls == 2);
    CHECK(!strcmp(m->tool_calls[1]->name, "g") && !strcmp(m->tool_calls[1]->arguments_json, "{}"));
    CHECK(r->has_enable_thinking && !r->enable_thinking &&
          !strcmp(r->response_format->json_schema, "{\"type\":\"object\"}"));
    CHECK(strstr(strbuf_text(&response.echo), "\"metadata\":{\"k\":\"v\"}"));
    strbuf_close(&response.echo);
    body_close(&b);
}

/* ---- answers ---- */

static bool is_json(const strbuf *text) {
    json_tree *t;
    status st = json_tree_read(&t, strbuf_text(text), text->size);
    json_tree_close(t);
    return st == ST_OK;
}

TEST(calls_of_a_response_have_a_bound) {
    for (int count = 128; count <= 129; count++) {
        strbuf text = {0};
        strbuf_add_string(&text, "{\"input\":[");
        for (int i = 0; i < count; i++)
            strbuf_add_format(&text, "%s{\"type\":\"function_call\",\"name\":\"f\"}", i ? "," : "");
        strbuf_add_string(&text, "]}");
        CHECK_STATUS(read_response(strbuf_text(&text)), count == 128 ? ST_OK : ST_INVALID);
        CHECK(response.request.n_messages == 1 && response.request.messages[0]->n_tool_calls == 128);
        if (count == 129) CHECK_THAT(!strcmp(b.param, "input[128]"), "%s", b.param);
        strbuf_close(&response.echo);
        body_close(&b);
        strbuf_close(&text);
    }
}

TEST(json_is_json_whatever_goes_in) {
    strbuf out = {0};
    out_object(&out, NULL);
    out_text(&out, "a", "\xFF\"\n\0x", 5);
    out_array(&out, "l");
    out_float(&out, NULL, -1.5F);
    out_float(&out, NULL, 0);
    out_float(&out, NULL, -1.0F / 0.0F);
    out_float(&out, NULL, 0.0F / 0.0F);
    out_end_array(&out);
    out_null(&out, "n");
    out_bool(&out, "b", true);
    out_end_object(&out);
    CHECK_THAT(is_json(&out), "%s", strbuf_text(&out));
    CHECK(strstr(strbuf_text(&out), "[-1.5,0.0,-9999.0,-9999.0]"));
    strbuf_clear(&out);
    fault_write(400, "x", NULL, "bad \xC3 text", &out);
    CHECK(is_json(&out) && strstr(strbuf_text(&out), "\"param\":\"x\",\"code\":null"));
    strbuf_close(&out);
}

TEST(columns_have_one_entry_for_each_token) {
    Gemmad__V1__TopLogprob best = GEMMAD__V1__TOP_LOGPROB__INIT, *list[] = {&best};
    Gemmad__V1__TokenLogprob l = GEMMAD__V1__TOKEN_LOGPROB__INIT;
    token_columns c = {0};
    strbuf out = {0};
    best.token_id = 8;
    best.logprob = -0.25F;
    l.token_id = 9;
    l.logprob = -2;
    l.n_top = 1;
    l.top = list;
    token_columns_add(&c, NULL, 3, NULL, 1, 0);
    token_columns_add(&c, NULL, 9, &l, 1, 4);
    token_columns_write(&c, NULL, &out);
    CHECK(
        !strcmp(strbuf_text(&out),
                "{\"tokens\":[\"token_id:3\",\"token_id:9\"],\"token_logprobs\":[null,-2.0],"
                "\"top_logprobs\":[null,{\"token_id:8\":-0.25,\"token_id:9\":-2.0}],\"text_offset\":[0,4]}"));
    CHECK(token_characters("a\xC3\xA9z", 4) == 3);
    token_columns_close(&c);
    strbuf_close(&out);
}

/* A call in two fragments after a thought, both as items. */
TEST(a_response_grows_item_by_item) {
    strbuf echo = {0};
    strbuf_add_string(&echo, "\"user\":null");
    response_answer a = {.id = "resp_1", .model = "m", .echo = &echo};
    Gemmad__V1__ChatDelta d = GEMMAD__V1__CHAT_DELTA__INIT;
    Gemmad__V1__ToolCall made = GEMMAD__V1__TOOL_CALL__INIT, *list[] = {&made};
    Gemmad__V1__Finished f = GEMMAD__V1__FINISHED__INIT;
    strbuf out = {0};
    d.has_reasoning = 1;
    d.reasoning = (ProtobufCBinaryData){2, (uint8_t *)"hm"};
    response_answer_delta(&a, &d);
    d.has_reasoning = 0;
    d.n_tool_calls = 1;
    d.tool_calls = list;
    made.id = "c1";
    made.name = "f";
    made.arguments_json = "{\"a\":";
    response_answer_delta(&a, &d);
    made.id = made.name = NULL;
    made.arguments_json = "1}";
    response_answer_delta(&a, &d);
    f.finish_reason = "tool_calls";
    response_answer_finished(&a, &f);
    response_answer_end(&a);
    CHECK(a.count == 2 && a.item[0].kind == RESPONSE_REASONING &&
          !strcmp(strbuf_text(&a.item[1].text), "{\"a\":1}"));
    response_answer_write(&a, NULL, "completed", &out);
    CHECK(is_json(&out) &&
          strstr(out.data, "\"call_id\":\"c1\",\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\""));
    response_answer_close(&a);
    strbuf_close(&echo);
    strbuf_close(&out);
}

int main(void) {
    RUN(a_chat_with_everything);
    RUN(refusals_name_the_field);
    RUN(prompts_of_completions);
    RUN(items_of_responses_become_messages);
    RUN(calls_of_a_response_have_a_bound);
    RUN(json_is_json_whatever_goes_in);
    RUN(columns_have_one_entry_for_each_token);
    RUN(a_response_grows_item_by_item);
    return test_result();
}
