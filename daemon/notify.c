#include "daemon/notify.h"

#include <string.h>
#include <systemd/sd-daemon.h>

#include "base/log.h"

void notify_manager(const char *text) {
    int error = sd_notify(0, text);
    if (error < 0) log_warn("cannot tell the service manager %s: %s", text, strerror(-error));
}
