/* Control.Drain: what SIGTERM does, asked for by a client. */
#include "base/log.h"
#include "daemon/queue/core_internal.h"

void core_drain_rpc(void *context, call *k, const ProtobufCMessage *message) {
    const Gemmad__V1__DrainRequest *r = (const Gemmad__V1__DrainRequest *)message;
    core *c = context;
    status st = core_check_admin(k, "Control.Drain");
    if (st != ST_OK) {
        core_refuse(k, st);
        return;
    }
    if (r->keep_engines) {
        core_refuse(
            k, fail(ST_UNSUPPORTED, "keep_engines: engines that outlive their gemmad are not built yet"));
        return;
    }
    if (!c->drain_asked) {
        core_refuse(k, fail(ST_UNSUPPORTED, "Control.Drain: nobody here can be drained"));
        return;
    }
    log_info("%s asks to drain: finishing what runs, then ending the engines",
             k->peer ? k->peer : "a client");
    Gemmad__V1__DrainResponse response = GEMMAD__V1__DRAIN_RESPONSE__INIT;
    /* Begun before it is answered: whoever has the answer knows that new requests are refused. */
    c->drain_asked(c->drain_context);
    core_answer(k, &response.base);
}
