#include "ctl/child.h"
#include "ctl/reply.h"
#include "ctl/tools.h"

static void write_call(json_writer *w, const reply_tool_call *call) {
    json_begin(w, '{');
    json_key(w, "id"), json_string(w, call->id ? call->id : "");
    json_key(w, "name"), json_string(w, call->name ? call->name : "");
    json_key(w, "arguments");
    strbuf_add_string(&w->out, call->arguments.size ? call->arguments.data : "{}");
    json_end(w, '}');
    strbuf_add_string(&w->out, "\n");
}

status tools_run(const char *program, const reply_tool_call *call, strbuf *result) {
    const char *argv[] = {program, NULL};
    json_writer w = {0};
    int code = 0;
    write_call(&w, call);
    result->max = TOOL_RESULT_BYTES_MAX;
    status st = child_run(&(child_options){.argv = argv, .input = w.out.data, .input_bytes = w.out.size},
                          result, &code);
    strbuf_close(&w.out);
    TRY(st);
    while (result->size && (result->data[result->size - 1] == '\n' || result->data[result->size - 1] == '\r'))
        result->data[--result->size] = 0;
    if (code == 0) return ST_OK;
    strbuf failed = {0};
    strbuf_add_format(&failed, "error: the tool ended with %d%s%s", code, result->size ? ": " : "",
                      strbuf_text(result));
    strbuf_close(result);
    *result = failed;
    return ST_OK;
}
