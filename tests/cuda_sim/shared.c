/* Shared memory. `__shared__` variables are thread-local variables of functions, since one thread runs a launch; they are
 * found by their symbols ("_ZZ…", of thread-local kind), as no other code here is C++. */
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim.h"

/* A multiple of 128 and of no more, as the dialect promises 128. */
static __thread unsigned char *dynamic, *dynamic_memory;
static __thread size_t dynamic_size;

static struct { size_t offset, bytes; } *variables;
static size_t variable_count;
static pthread_once_t symbols_once = PTHREAD_ONCE_INIT;

static void symbols_find(const unsigned char *file, size_t bytes) {
    const Elf64_Ehdr *header = (const void *)file;
    if (bytes < sizeof *header || memcmp(file, ELFMAG, SELFMAG) != 0 || file[EI_CLASS] != ELFCLASS64) return;
    const Elf64_Shdr *sections = (const void *)(file + header->e_shoff);
    for (unsigned i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *symbols = (const void *)(file + sections[i].sh_offset);
        const char *names = (const char *)file + sections[sections[i].sh_link].sh_offset;
        size_t count = sections[i].sh_size / sizeof *symbols;
        variables = calloc(count + 1, sizeof *variables);
        for (size_t k = 0; variables && k < count; k++) {
            if (ELF64_ST_TYPE(symbols[k].st_info) != STT_TLS || symbols[k].st_shndx == SHN_UNDEF) continue;
            if (strncmp(names + symbols[k].st_name, "_ZZ", 3) != 0) continue;
            variables[variable_count].offset = symbols[k].st_value;
            variables[variable_count++].bytes = symbols[k].st_size;
        }
    }
}

static void symbols_read(void) {
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat s;
    if (fd < 0) return;
    if (fstat(fd, &s) == 0 && s.st_size > 0) {
        void *file = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (file != MAP_FAILED) {
            symbols_find(file, (size_t)s.st_size);
            munmap(file, (size_t)s.st_size);
        }
    }
    close(fd);
}

/* The program is the first object, and the one that the symbols are of. */
static int first_object(struct dl_phdr_info *info, size_t size, void *out) {
    (void)size;
    *(unsigned char **)out = info->dlpi_tls_data;
    return 1;
}
static unsigned char *thread_variables(void) {
    static __thread unsigned char *at;
    if (!at) dl_iterate_phdr(first_object, &at);
    return at;
}

static pthread_key_t dynamic_key;
static void key_make(void) {
    symbols_read();
    pthread_key_create(&dynamic_key, free);
}

void *sim_dynamic_shared(void) { return dynamic; }

void sim_shared_poison(size_t dynamic_bytes) {
    pthread_once(&symbols_once, key_make);
    unsigned char *at = thread_variables();
    for (size_t i = 0; at && i < variable_count; i++) memset(at + variables[i].offset, 0xFF, variables[i].bytes);
    /* Exactly as large as was asked for, so that AddressSanitizer sees its end. */
    if (!dynamic_memory || dynamic_size != dynamic_bytes) {
        free(dynamic_memory);
        if (posix_memalign((void **)&dynamic_memory, 256, 128 + dynamic_bytes)) abort();
        pthread_setspecific(dynamic_key, dynamic_memory);
        dynamic = dynamic_memory + 128;
        dynamic_size = dynamic_bytes;
    }
    memset(dynamic, 0xFF, dynamic_bytes);
}

bool sim_is_shared(const void *p, size_t bytes) {
    const unsigned char *b = p, *at = thread_variables();
    if (b >= dynamic && b + bytes <= dynamic + dynamic_size) return true;
    for (size_t i = 0; at && i < variable_count; i++)
        if (b >= at + variables[i].offset && b + bytes <= at + variables[i].offset + variables[i].bytes) return true;
    return variable_count == 0;
}
