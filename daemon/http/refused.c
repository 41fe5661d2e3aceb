/* Paths that OpenAI's, Anthropic's and vLLM's clients know and that are not served: refused by their name, so that nobody
 * takes it for a wrong address. */
#include <string.h>

#include "daemon/http/openai_internal.h"

static const char *const not_built[][2] = {
    {"/v1/files", "files"},
    {"/v1/batches", "batches"},
    {"/v1/uploads", "uploads"},
    {"/v1/messages", "Anthropic's Messages API"},
    {"/v1/embeddings", "embeddings"},
    {"/v1/images", "images"},
    {"/v1/audio", "audio"},
    {"/v1/moderations", "moderations"},
    {"/v1/fine_tuning", "fine-tuning"},
    {"/v1/load_lora_adapter", "LoRA adapters"},
    {"/v1/unload_lora_adapter", "LoRA adapters"},
    {"/v1/rerank", "reranking"},
    {"/v1/score", "scoring"},
    {"/v1/assistants", "assistants"},
    {"/v1/threads", "threads"},
    {"/v1/vector_stores", "vector stores"},
    {"/v1/conversations", "conversations"},
    {"/v1/realtime", "realtime sessions"},
    {"/v1/responses", "stored responses"},
    {"/v1/chat/completions", "stored chat completions"},
};

void openai_refused(void *context, http_exchange *x) {
    (void)context;
    for (size_t i = 0; i < sizeof not_built / sizeof *not_built; i++)
        if (!strncmp(http_path(x), not_built[i][0], strlen(not_built[i][0]))) {
            (void)fail(ST_UNSUPPORTED, "%s %s: not available in this version (%s)", http_method(x),
                       not_built[i][0], not_built[i][1]);
            break;
        }
    http_refuse(x, 501, NULL, "not_implemented", status_text());
}
