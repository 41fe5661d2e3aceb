/* The table that transports serve. A rpc of the contract that is not built says so by its name. */
#include "daemon/queue/core_internal.h"

#define UNBUILT(function, rpc)                                                                               \
    static void function(void *context, call *k, const ProtobufCMessage *request) {                          \
        (void)context, (void)request;                                                                        \
        core_refuse(k, fail(ST_UNSUPPORTED, "%s is not built yet", rpc));                                    \
    }
UNBUILT(submit_job, "Jobs.Submit")
UNBUILT(get_job, "Jobs.Get")
UNBUILT(list_jobs, "Jobs.List")
UNBUILT(cancel_job, "Jobs.Cancel")
UNBUILT(job_results, "Jobs.Results")

const call_method *core_methods(uint32_t *count) {
    static const call_method methods[] = {
        {"/gemmad.v1.Inference/Generate", &gemmad__v1__generate_request__descriptor, false, core_generate},
        {"/gemmad.v1.Inference/Chat", &gemmad__v1__chat_request__descriptor, false, core_chat},
        {"/gemmad.v1.Inference/Tokenize", &gemmad__v1__tokenize_request__descriptor, false, core_tokenize},
        {"/gemmad.v1.Inference/Detokenize", &gemmad__v1__detokenize_request__descriptor, false,
         core_detokenize},
        {"/gemmad.v1.Inference/RenderChat", &gemmad__v1__chat_request__descriptor, false, core_render_chat},
        {"/gemmad.v1.Inference/ParseChat", &gemmad__v1__parse_chat_request__descriptor, false,
         core_parse_chat},
        {"/gemmad.v1.Inference/ListModels", &gemmad__v1__list_models_request__descriptor, false,
         core_list_models},
        {"/gemmad.v1.Jobs/Submit", &gemmad__v1__submit_job_request__descriptor, true, submit_job},
        {"/gemmad.v1.Jobs/Get", &gemmad__v1__get_job_request__descriptor, false, get_job},
        {"/gemmad.v1.Jobs/List", &gemmad__v1__list_jobs_request__descriptor, false, list_jobs},
        {"/gemmad.v1.Jobs/Cancel", &gemmad__v1__cancel_job_request__descriptor, false, cancel_job},
        {"/gemmad.v1.Jobs/Results", &gemmad__v1__job_results_request__descriptor, false, job_results},
        {"/gemmad.v1.Control/GetStatus", &gemmad__v1__get_status_request__descriptor, false, core_get_status},
        {"/gemmad.v1.Control/WatchStatus", &gemmad__v1__get_status_request__descriptor, false,
         core_watch_status},
        {"/gemmad.v1.Control/Drain", &gemmad__v1__drain_request__descriptor, false, core_drain_rpc},
    };
    *count = sizeof methods / sizeof *methods;
    return methods;
}
