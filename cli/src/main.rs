//! The `daybook` command.

/// Rows pass through many threads: a buffer allocated by one is freed by another, which the system's allocator takes a third
/// of a worker's time for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    daybook::main()
}
