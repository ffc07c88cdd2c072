//! Who acts: organisations, people with working hours in their own zones, and the clients they use.

use jiff::{
    civil::{Date, Weekday},
    tz::TimeZone,
};

use super::random::{Random, mix};

/// An organisation of the generated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Organisation {
    /// Its id, as `org_id` in the tables.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its IANA time zone: where its days begin and end.
    pub time_zone: &'static str,
}

/// The organisations, as many as are asked for at most.
pub const ORGANISATIONS: [Organisation; 6] = [
    Organisation { id: "acme", name: "Acme", time_zone: "Europe/Berlin" },
    Organisation { id: "globex", name: "Globex", time_zone: "America/Los_Angeles" },
    Organisation { id: "himal", name: "Himal Works", time_zone: "Asia/Kathmandu" },
    Organisation { id: "initech", name: "Initech", time_zone: "America/New_York" },
    Organisation { id: "kiwi", name: "Kiwi Labs", time_zone: "Pacific/Auckland" },
    Organisation { id: "umbra", name: "Umbra", time_zone: "UTC" },
];

/// What a client of a product does; its `telemetry.status` says the same.
pub(super) struct Client {
    pub(super) product: &'static str,
    pub(super) client_type: &'static str,
    pub(super) host_app: &'static str,
    pub(super) version: &'static str,
    pub(super) models: &'static [&'static str],
    pub(super) provider: &'static str,
    pub(super) input_includes_cached: bool,
    pub(super) meter: Meter,
    /// Measure families that it reports.
    pub(super) reports: &'static str,
    pub(super) suggests: bool,
    pub(super) tools: bool,
    /// Of 100 installations.
    pub(super) share: u64,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Meter {
    Credits,
    Requests,
    Tokens,
    EstimatedCost,
    ChargedCost,
}

const CLAUDE: &[&str] = &["claude-sonnet-4-5", "claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-4-5"];
const GPT: &[&str] = &["gpt-5", "gpt-5-mini", "gpt-5-codex"];
const FULL: &str = "session,activity,conversation,prompt,model,tool,agent,suggestion,code,vcs,usage";
const TERMINAL: &str = "session,activity,prompt,model,tool,code,vcs,usage";
const CHAT: &str = "session,conversation,prompt,model,usage";

#[rustfmt::skip]
pub(super) const CLIENTS: &[Client] = &[
    Client { product: "kiro", client_type: "ide", host_app: "kiro", version: "0.9.2", models: CLAUDE, provider: "anthropic", input_includes_cached: false, meter: Meter::Credits, reports: FULL, suggests: true, tools: true, share: 24 },
    Client { product: "kiro", client_type: "cli", host_app: "terminal", version: "1.20.0", models: CLAUDE, provider: "anthropic", input_includes_cached: false, meter: Meter::Credits, reports: TERMINAL, suggests: false, tools: true, share: 10 },
    Client { product: "copilot", client_type: "plugin", host_app: "vscode", version: "1.388.0", models: GPT, provider: "openai", input_includes_cached: true, meter: Meter::Requests, reports: FULL, suggests: true, tools: true, share: 20 },
    Client { product: "copilot", client_type: "plugin", host_app: "intellij", version: "1.5.61", models: GPT, provider: "openai", input_includes_cached: true, meter: Meter::Requests, reports: FULL, suggests: true, tools: true, share: 6 },
    Client { product: "copilot", client_type: "web", host_app: "browser", version: "2026.11", models: GPT, provider: "openai", input_includes_cached: true, meter: Meter::Requests, reports: CHAT, suggests: false, tools: false, share: 5 },
    Client { product: "claude_code", client_type: "cli", host_app: "terminal", version: "2.0.14", models: CLAUDE, provider: "anthropic", input_includes_cached: false, meter: Meter::EstimatedCost, reports: TERMINAL, suggests: false, tools: true, share: 16 },
    Client { product: "codex", client_type: "cli", host_app: "terminal", version: "0.58.0", models: GPT, provider: "openai", input_includes_cached: true, meter: Meter::Tokens, reports: TERMINAL, suggests: false, tools: true, share: 8 },
    Client { product: "cursor", client_type: "ide", host_app: "cursor", version: "2.1.7", models: CLAUDE, provider: "anthropic", input_includes_cached: false, meter: Meter::ChargedCost, reports: FULL, suggests: true, tools: true, share: 10 },
    // A client type that Daybook does not know: kept, and counted as `unknown`.
    Client { product: "kiro", client_type: "watch_app", host_app: "watch", version: "0.1.0", models: CLAUDE, provider: "anthropic", input_includes_cached: false, meter: Meter::Credits, reports: CHAT, suggests: false, tools: false, share: 3 },
];

/// One client on one machine of one person.
pub(super) struct Install {
    pub(super) org: usize,
    pub(super) person: u64,
    pub(super) client: &'static Client,
    pub(super) zone: TimeZone,
    /// `,"subject":…` to `"installid":…`, the same in each of its events.
    pub(super) attributes: String,
    pub(super) source: String,
    /// Next `sequence`.
    pub(super) sequence: i64,
    /// The plan and its cap are told by the person's first installation.
    pub(super) first_of_person: bool,
    /// 10 to 300: how much more than others.
    intensity: u64,
    /// First day of work, counted from the first day of the generated time.
    joins: u64,
}

impl Install {
    /// How much of the whole this installation does on this day, relative to others; depends on nothing but its arguments.
    pub(super) fn weight(&self, seed: u64, index: u64, day: u64, date: Date) -> u64 {
        if day < self.joins {
            return 0;
        }
        let of_person = mix(seed, self.person, day);
        let of_install = mix(seed ^ 1, index, day);
        let weekend = matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday);
        let at_work = if weekend { of_person % 100 < 9 } else { of_person % 100 < 94 };
        // Nobody uses each client each day.
        if !at_work || (!self.first_of_person && of_install % 100 < 35) {
            return 0;
        }
        self.intensity * (40 + of_install % 121) / if weekend { 400 } else { 100 }
    }
}

const FIRST: &[&str] = &[
    "ada", "amara", "anna", "arjun", "ben", "chen", "clara", "diego", "elif", "emeka", "fatima", "felix", "grace",
    "hana", "ines", "ivan", "jonas", "kofi", "lena", "liam", "lucia", "maya", "mei", "nils", "noor", "olga", "omar",
    "paul", "priya", "quentin", "rosa", "sam", "sita", "tara", "tom", "uma", "viktor", "wen", "yara", "zoe",
];
const LAST: &[&str] = &[
    "abbott", "bauer", "costa", "dahl", "eriksen", "fischer", "garcia", "haas", "ito", "jensen", "kaya", "lama",
    "meyer", "novak", "okafor", "park", "quist", "rossi", "singh", "tamang", "ueda", "vogel", "weber", "xu", "yilmaz",
    "zeller",
];

/// All installations, ordered by person.
pub(super) fn installs(random: &mut Random, orgs: usize, users: usize, days: u64) -> Vec<Install> {
    let zones: Vec<TimeZone> = ORGANISATIONS
        .iter()
        .map(|org| TimeZone::get(org.time_zone).expect("the zones are in IANA's database"))
        .collect();
    let shares: u64 = CLIENTS.iter().map(|client| client.share).sum();
    let mut installs = Vec::with_capacity(users * 2);
    for person in 0..users {
        // Nobody's organisation is empty, and each has twice as many people as the next one.
        let by_size = (0..orgs - 1).find(|_| random.chance(500)).unwrap_or(orgs - 1);
        let org = if person < orgs { person } else { by_size };
        let (first, last) = (FIRST[person % FIRST.len()], LAST[(person / FIRST.len() + person) % LAST.len()]);
        let namesake = person / (FIRST.len() * LAST.len());
        let name = if namesake == 0 { format!("{first}.{last}") } else { format!("{first}.{last}{}", namesake + 1) };
        let domain = ORGANISATIONS[org].id;
        let subject = if random.chance(120) {
            format!("email:{name}@{domain}.example")
        } else {
            format!("idp:https://id.{domain}.example#{name}")
        };
        // One in five works from elsewhere.
        let zone = if random.chance(200) {
            zones[random.below(zones.len() as u64) as usize].clone()
        } else {
            zones[org].clone()
        };
        let intensity = 10 + random.below(120) + if random.chance(150) { 170 } else { 0 };
        let joins = if random.chance(150) { random.below(days) } else { 0 };
        let clients = 1 + random.below(100) / 45;
        for nth in 0..=clients {
            let mut at = random.below(shares);
            let client = CLIENTS
                .iter()
                .find(|client| {
                    let here = at < client.share;
                    at = at.saturating_sub(client.share);
                    here
                })
                .expect("`at` is below the sum of the shares");
            let id = format!("{:012x}", mix(random.bits(), person as u64, nth) >> 16);
            let Client { product, client_type, version, host_app, .. } = client;
            installs.push(Install {
                org,
                person: person as u64,
                client,
                zone: zone.clone(),
                attributes: format!(
                    r#","subject":"{subject}","datacontenttype":"application/json","product":"{product}","clienttype":"{client_type}","clientver":"{version}","hostapp":"{host_app}","installid":"{id}""#
                ),
                source: format!("urn:daybook:{product}:{client_type}:{id}"),
                sequence: 1,
                first_of_person: nth == 0,
                intensity: intensity / (nth + 1),
                joins,
            });
        }
    }
    installs
}
