//! `daybook generate`.

use std::{
    fs::File,
    io::{BufWriter, Write},
};

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

use crate::{
    args::GenerateArgs,
    fault::{During as _, Fault, Result},
    generate::{Config, Generator, ORGANISATIONS},
    output,
};

/// The last day that has ended in every zone (UTC-12 is the last to end it).
pub(crate) fn last_full_day(now: Timestamp) -> Date {
    (now - SignedDuration::from_hours(36)).to_zoned(TimeZone::UTC).date()
}

pub(crate) fn run(args: &GenerateArgs, now: Timestamp) -> Result<()> {
    let config = Config {
        seed: args.seed,
        events: args.events,
        users: args.users,
        orgs: args.orgs,
        days: args.days,
        end: args.end.unwrap_or_else(|| last_full_day(now)),
        duplicate_share: args.duplicate_share,
        bad_share: args.bad_share,
    };
    let generator = Generator::new(config)
        .map_err(|faults| Fault::usage(format!("cannot generate this: {}", faults.join("; "))))?;
    let only = match args.org {
        Some(org) if !(1..=args.orgs).contains(&org) => {
            let fault = Fault::usage(format!("--org {org}: there are {} organisations", args.orgs));
            return Err(fault.help("more of them with --orgs N"));
        }
        only => only.map(|org| org - 1),
    };
    let planned = generator.planned();
    let (mut out, place): (Box<dyn Write>, String) = match &args.out {
        Some(path) => {
            let file = File::create(path).during(format!("cannot create `{}`", path.display()))?;
            (Box::new(file), path.display().to_string())
        }
        None => (Box::new(std::io::stdout().lock()), "standard output".to_owned()),
    };
    let mut out = BufWriter::with_capacity(1 << 20, &mut out);
    // A terminal that shows events needs no bar beside them.
    let bar = output::bar(args.events, "generating", args.out.is_some());
    let mut written = 0_u64;
    for (index, record) in generator.enumerate() {
        if only.is_none_or(|only| only == record.org) {
            let line = out.write_all(&record.json).and_then(|()| out.write_all(b"\n"));
            match line {
                // The reader has seen enough (`| head`).
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                line => line.during(format!("cannot write to {place}"))?,
            }
            written += 1;
        }
        if index % 4096 == 0 {
            bar.set_position(index as u64);
        }
    }
    match out.flush() {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        flushed => flushed.during(format!("cannot write to {place}"))?,
    }
    bar.finish_and_clear();
    if args.out.is_some() {
        let of = match only {
            Some(only) => format!(" of {}", ORGANISATIONS[only].id),
            None => format!(": {} new, {} client retries, {} bad", planned.new, planned.duplicates, planned.bad),
        };
        output::note(&format!("{written} records{of}, in {place}"));
    }
    Ok(())
}
