//! What was generated for a directory before, so that the same seed gives the same events on another day too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    args::DemoArgs,
    commands::generate::last_full_day,
    fault::{During as _, Fault, Result},
    generate::Config,
    parts,
};

/// Whether a directory has had these events before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    Never,
    /// Some of them: that run did not come to its end.
    Begun,
    /// All of them.
    Done,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    config: Config,
    completed: bool,
}

/// The runs of a directory.
#[derive(Debug)]
pub(super) struct History {
    file: PathBuf,
    entries: Vec<Entry>,
}

impl History {
    pub(super) fn read(file: &Path) -> Result<Self> {
        let place = file.display();
        let entries = match fs::read(file) {
            Ok(text) => serde_json::from_slice(&text).during(format!("`{place}` is not from a demo"))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Fault::failed(format!("cannot read `{place}`")).source(error)),
        };
        Ok(Self { file: file.to_owned(), entries })
    }

    /// What to generate. Its last day is the one that it had the first time.
    pub(super) fn generator(&mut self, args: &DemoArgs) -> Result<(Config, Past)> {
        let same = |entry: &&Entry| (entry.config.seed, entry.config.events) == (args.seed, args.events);
        if let Some(Entry { config, completed }) = self.entries.iter().find(same) {
            return Ok((config.clone(), if *completed { Past::Done } else { Past::Begun }));
        }
        let config = Config::new(args.seed, args.events, last_full_day(parts::now()));
        self.entries.push(Entry { config: config.clone(), completed: false });
        self.write()?;
        Ok((config, Past::Never))
    }

    /// Notes that all of `config` is in the tables.
    pub(super) fn completed(&mut self, config: &Config) -> Result<()> {
        for entry in &mut self.entries {
            entry.completed |= entry.config == *config;
        }
        self.write()
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.entries).during("cannot note what is generated")?;
        fs::write(&self.file, text).during(format!("cannot write `{}`", self.file.display()))
    }
}
