/* Words to the service manager. Nothing happens where there is none.
 * Threads: main thread. Errors: a warning in the log; a service manager that does not listen stops nobody. */
#ifndef DAEMON_NOTIFY_H
#define DAEMON_NOTIFY_H

/* "READY=1", "STOPPING=1", … */
void notify_manager(const char *text);

#endif
