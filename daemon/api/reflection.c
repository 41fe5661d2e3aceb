/* grpc.reflection.v1 and v1alpha: the descriptors that protoc wrote at build time, by file and by symbol. Both versions
 * have the same bytes on the wire, so one set of messages serves both. */
#include <stdio.h>
#include <string.h>

#include "daemon/api/server_internal.h"
#include "descriptors.h"
#include "proto/reflection_v1.pb-c.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;

enum { GRPC_NOT_FOUND = 5, GRPC_INVALID_ARGUMENT = 3, SYMBOL_BYTES = 256 };

/* ---- reading FileDescriptorProto: just lengths and names ---- */

typedef struct bytes {
    const uint8_t *at;
    size_t n;
} bytes;

static bool read_varint(bytes *b, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && b->n > 0; shift += 7) {
        uint8_t x = *b->at++;
        b->n--;
        *out |= (uint64_t)(x & 127) << shift;
        if (!(x & 128)) return true;
    }
    return false;
}

/* The next field; *value holds its bytes when it is length-delimited. */
static bool next_field(bytes *b, uint32_t *number, bytes *value) {
    uint64_t key, n;
    if (!read_varint(b, &key)) return false;
    *number = (uint32_t)(key >> 3);
    *value = (bytes){NULL, 0};
    switch (key & 7) {
    case 0: return read_varint(b, &n);
    case 1: n = 8; break;
    case 2:
        if (!read_varint(b, &n)) return false;
        break;
    case 5: n = 4; break;
    default: return false;
    }
    if (n > b->n) return false;
    if ((key & 7) == 2) *value = (bytes){b->at, (size_t)n};
    b->at += n;
    b->n -= (size_t)n;
    return true;
}

static bytes field(bytes message, uint32_t number) {
    uint32_t found;
    bytes value;
    while (next_field(&message, &found, &value))
        if (found == number && value.at) return value;
    return (bytes){NULL, 0};
}

static bool is_symbol(const char *scope, bytes name, const char *wanted) {
    char full[SYMBOL_BYTES];
    snprintf(full, sizeof full, "%s%s%.*s", scope, *scope ? "." : "", (int)name.n, (const char *)name.at);
    return strcmp(full, wanted) == 0;
}

/* Fields of the descriptor messages: google/protobuf/descriptor.proto. */
enum { FILE_NAME = 1, FILE_PACKAGE = 2, FILE_MESSAGE = 4, FILE_ENUM = 5, FILE_SERVICE = 6, NAME = 1,
       MESSAGE_FIELD = 2, MESSAGE_NESTED = 3, MESSAGE_ENUM = 4 }; /* a service's methods are its field 2 too */

/* Whether a message, enum, field, service or method of that full name is declared in here. */
static bool declares(const char *scope, bytes message, const uint32_t *members, uint32_t member_count, const char *wanted) {
    uint32_t number;
    bytes value;
    while (next_field(&message, &number, &value)) {
        bool member = false;
        for (uint32_t i = 0; i < member_count; i++) member |= members[i] == number;
        if (!member || !value.at) continue;
        bytes name = field(value, NAME);
        if (is_symbol(scope, name, wanted)) return true;
        char inner[SYMBOL_BYTES];
        snprintf(inner, sizeof inner, "%s%s%.*s", scope, *scope ? "." : "", (int)name.n, (const char *)name.at);
        size_t n = strlen(inner);
        if (strncmp(inner, wanted, n) != 0 || wanted[n] != '.') continue;
        static const uint32_t in_message[] = {MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM};
        if (declares(inner, value, in_message, 3, wanted)) return true;
    }
    return false;
}

static bool file_declares(bytes file, const char *wanted) {
    static const uint32_t in_file[] = {FILE_MESSAGE, FILE_ENUM, FILE_SERVICE};
    char package[SYMBOL_BYTES];
    bytes p = field(file, FILE_PACKAGE);
    snprintf(package, sizeof package, "%.*s", (int)p.n, (const char *)p.at);
    return declares(package, file, in_file, 3, wanted);
}

static bool file_named(bytes file, const char *wanted) { return is_symbol("", field(file, FILE_NAME), wanted); }

/* The set is a FileDescriptorSet: field 1, one FileDescriptorProto each. */
static bytes find_file(bool (*matches)(bytes file, const char *wanted), const char *wanted) {
    bytes set = {descriptor_set, sizeof descriptor_set}, file;
    uint32_t number;
    while (next_field(&set, &number, &file))
        if (number == 1 && matches(file, wanted)) return file;
    return (bytes){NULL, 0};
}

/* ---- answers ---- */

static void respond(call *c, const reflection_request *request, reflection_response *response) {
    response->valid_host = request->host;
    response->original_request = (reflection_request *)request;
    c->ops->send(c, &response->base);
}

static void respond_error(call *c, const reflection_request *request, int code, const char *text) {
    reflection_response response = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    error.error_code = code;
    error.error_message = (char *)text;
    response.message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    response.error_response = &error;
    respond(c, request, &response);
}

static void respond_file(call *c, const reflection_request *request, bytes file, const char *what, const char *name) {
    if (!file.at) {
        char text[SYMBOL_BYTES + 64];
        snprintf(text, sizeof text, "there is no %s \"%.200s\"", what, name);
        respond_error(c, request, GRPC_NOT_FOUND, text);
        return;
    }
    reflection_response response = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    Grpc__Reflection__V1__FileDescriptorResponse files = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    ProtobufCBinaryData one = {file.n, (uint8_t *)file.at};
    files.n_file_descriptor_proto = 1;
    files.file_descriptor_proto = &one;
    response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    response.file_descriptor_response = &files;
    respond(c, request, &response);
}

static void respond_services(call *c, const reflection_request *request) {
    enum { SERVICES_MAX = 32 };
    static char names[SERVICES_MAX][SYMBOL_BYTES];
    static Grpc__Reflection__V1__ServiceResponse services[SERVICES_MAX], *list[SERVICES_MAX];
    size_t n = 0;
    bytes set = {descriptor_set, sizeof descriptor_set}, file, value;
    uint32_t number;
    while (next_field(&set, &number, &file)) {
        bytes package = field(file, FILE_PACKAGE);
        while (next_field(&file, &number, &value)) {
            if (number != FILE_SERVICE || !value.at || n == SERVICES_MAX) continue;
            bytes name = field(value, NAME);
            snprintf(names[n], SYMBOL_BYTES, "%.*s.%.*s", (int)package.n, (const char *)package.at, (int)name.n,
                     (const char *)name.at);
            grpc__reflection__v1__service_response__init(&services[n]);
            services[n].name = names[n];
            list[n] = &services[n];
            n++;
        }
    }
    reflection_response response = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    Grpc__Reflection__V1__ListServiceResponse all = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    all.n_service = n;
    all.service = list;
    response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    response.list_services_response = &all;
    respond(c, request, &response);
}

static void reflect(server *s, call *c, const ProtobufCMessage *message) {
    const reflection_request *request = (const reflection_request *)message;
    (void)s;
    switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        respond_services(c, request);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        respond_file(c, request, find_file(file_named, request->file_by_filename), "file", request->file_by_filename);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        respond_file(c, request, find_file(file_declares, request->file_containing_symbol), "symbol",
                     request->file_containing_symbol);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        respond_error(c, request, GRPC_NOT_FOUND, "there are no extensions");
        return;
    default: respond_error(c, request, GRPC_INVALID_ARGUMENT, "the request names nothing to look up");
    }
}

const own_method reflection_methods[] = {
    {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
     &grpc__reflection__v1__server_reflection_request__descriptor, reflect, true},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
     &grpc__reflection__v1__server_reflection_request__descriptor, reflect, true},
};
const uint32_t reflection_method_count = sizeof reflection_methods / sizeof *reflection_methods;
