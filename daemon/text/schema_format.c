/* Formats as expressions. Each admits only strings that its RFC admits, and leaves out what no machine should write: leap
 * seconds, quoted mail boxes, IPv6 zones. */
#include <string.h>

#include "daemon/text/schema_internal.h"

/* RFC 3339, years 1000 to 9999. February has its 29th in years that four divides, and of the hundreds in those that 400
 * divides. */
#define LEAP_YEAR "([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)"
#define DATE                                                                                                 \
    "([1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]" \
    "|1[0-9]|2[0-8]))"                                                                                       \
    "|" LEAP_YEAR "-02-29)"
#define TIME "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define BYTE "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define IPV4 BYTE "\\." BYTE "\\." BYTE "\\." BYTE
#define HEX4 "[0-9a-fA-F]{1,4}"
/* Of usual lengths, far below what the RFCs allow: each place of a counted part is a state that takes many tokens, and 63
 * of them in every label would take seconds to compile. */
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,14}[A-Za-z0-9])?"
#define HOST LABEL "(\\." LABEL ")?\\.[A-Za-z]{2,8}"
#define ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,16}"
#define URI_CHARACTER "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"

static const struct {
    const char *name, *regex;
} formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "T" TIME},
    {"duration",
     "P([0-9]{1,9}W|([0-9]{1,9}Y([0-9]{1,9}M([0-9]{1,9}D)?)?|[0-9]{1,9}M([0-9]{1,9}D)?|[0-9]{1,9}D)"
     "(T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))?|"
     "T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))"},
    {"email", ATOM "(\\." ATOM ")?@" HOST},
    {"hostname", LABEL "(\\." LABEL "){0,2}(\\.[A-Za-z]{2,8})?"},
    {"ipv4", IPV4},
    {"ipv6", "(" HEX4 ":){7}" HEX4 "|(" HEX4 ":){1,7}:|(" HEX4 ":){1,6}:" HEX4 "|(" HEX4 ":){1,5}(:" HEX4
             "){2}|(" HEX4 ":){1,4}(:" HEX4 "){3}|(" HEX4 ":){1,3}(:" HEX4 "){4}|(" HEX4 ":){1,2}(:" HEX4
             "){5}|" HEX4 ":(:" HEX4 "){6}|:((:" HEX4 "){1,7}|:)"},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"uri", "[A-Za-z][A-Za-z0-9+.-]{0,15}://" HOST "(:[1-9][0-9]{0,3})?(/" URI_CHARACTER
            "*)*(\\?(" URI_CHARACTER "|[/?])*)?(#(" URI_CHARACTER "|[/?])*)?"},
};

const char *schema_format_regex(const char *name) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(formats[i].name, name) == 0) return formats[i].regex;
    return NULL;
}

const char *schema_format_names(void) {
    return "date, time, date-time, duration, email, hostname, ipv4, ipv6, uuid, uri; of numbers int32, "
           "int64, uint32, float, "
           "double";
}
