#include "daemon/api/reflection.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/api/code.h"
#include "daemon/api/descriptors.h"
#include "proto/descriptors.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;
#define REQUEST(kind) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##kind
#define RESPONSE(kind) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##kind

struct reflection {
    descriptors *files;
};

static void send_error(call *c, reflection_response *m, status st) {
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    strbuf text = {0};
    code_add_text(status_text(), &text);
    error.error_code = (int32_t)code_of_status(st);
    error.error_message = text.data;
    m->message_response_case = RESPONSE(ERROR_RESPONSE);
    m->error_response = &error;
    c->ops->send(c, &m->base);
    strbuf_close(&text);
}

/* No file of ours imports another, so one file is always all that its reader needs. */
static void send_file(call *c, reflection_response *m, const descriptor_file *file, const char *what) {
    if (!file) {
        send_error(c, m, fail(ST_NOT_FOUND, "there is no \"%s\"", what));
        return;
    }
    ProtobufCBinaryData bytes = {.len = file->size, .data = (uint8_t *)(uintptr_t)file->bytes};
    Grpc__Reflection__V1__FileDescriptorResponse answer = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    answer.n_file_descriptor_proto = 1;
    answer.file_descriptor_proto = &bytes;
    m->message_response_case = RESPONSE(FILE_DESCRIPTOR_RESPONSE);
    m->file_descriptor_response = &answer;
    c->ops->send(c, &m->base);
}

static void send_services(call *c, reflection_response *m, const descriptors *files) {
    size_t n = descriptors_service_count(files);
    Grpc__Reflection__V1__ServiceResponse *service = memory_alloc_array(n + 1, sizeof *service);
    Grpc__Reflection__V1__ServiceResponse **list = memory_alloc_array(n + 1, sizeof(void *));
    for (size_t i = 0; i < n; i++) {
        service[i] = (Grpc__Reflection__V1__ServiceResponse)GRPC__REFLECTION__V1__SERVICE_RESPONSE__INIT;
        service[i].name = (char *)(uintptr_t)descriptors_service(files, i);
        list[i] = &service[i];
    }
    Grpc__Reflection__V1__ListServiceResponse answer = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    answer.n_service = n;
    answer.service = list;
    m->message_response_case = RESPONSE(LIST_SERVICES_RESPONSE);
    m->list_services_response = &answer;
    c->ops->send(c, &m->base);
    free(list);
    free(service);
}

static void send_extension_numbers(call *c, reflection_response *m, const descriptors *files, const char *type) {
    if (!descriptors_find_symbol(files, type)) {
        send_error(c, m, fail(ST_NOT_FOUND, "there is no type \"%s\"", type));
        return;
    }
    Grpc__Reflection__V1__ExtensionNumberResponse answer = GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;
    answer.base_type_name = (char *)(uintptr_t)type;
    m->message_response_case = RESPONSE(ALL_EXTENSION_NUMBERS_RESPONSE);
    m->all_extension_numbers_response = &answer;
    c->ops->send(c, &m->base);
}

static void answer_request(void *context, call *c, const ProtobufCMessage *message) {
    const reflection *r = context;
    const reflection_request *q = (const void *)message;
    if (!q) {
        c->ops->finish(c, ST_OK, "", 0);
        return;
    }
    reflection_response m = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    m.valid_host = q->host;
    m.original_request = (reflection_request *)(uintptr_t)q;
    switch (q->message_request_case) {
    case REQUEST(FILE_BY_FILENAME):
        send_file(c, &m, descriptors_find_file(r->files, q->file_by_filename), q->file_by_filename);
        break;
    case REQUEST(FILE_CONTAINING_SYMBOL):
        send_file(c, &m, descriptors_find_symbol(r->files, q->file_containing_symbol), q->file_containing_symbol);
        break;
    case REQUEST(FILE_CONTAINING_EXTENSION):
        send_error(c, &m, fail(ST_NOT_FOUND, "there are no extensions"));
        break;
    case REQUEST(ALL_EXTENSION_NUMBERS_OF_TYPE):
        send_extension_numbers(c, &m, r->files, q->all_extension_numbers_of_type);
        break;
    case REQUEST(LIST_SERVICES): send_services(c, &m, r->files); break;
    default: send_error(c, &m, fail(ST_INVALID, "the request asks for nothing that this version knows"));
    }
}

status reflection_open(reflection **out, server *s) {
    reflection *r = memory_alloc(sizeof *r);
    status st = descriptors_open(&r->files, proto_descriptors, proto_descriptors_bytes);
    if (st != ST_OK) {
        free(r);
        return st;
    }
    /* The two versions differ in their package alone: the messages are the same on the wire. */
    static const char *const paths[] = {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        server_add_method(s, &(server_method){
            .path = paths[i],
            .request = &grpc__reflection__v1__server_reflection_request__descriptor,
            .client_streams = true,
            .handle = answer_request,
            .context = r,
        });
    *out = r;
    return ST_OK;
}

void reflection_close(reflection *r) {
    if (!r) return;
    descriptors_close(r->files);
    free(r);
}
