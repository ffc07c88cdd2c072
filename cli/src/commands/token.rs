//! `daybook token`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use directory::{NewKey, Role, Scope};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::{
    commands::key::{ListArgs, not_made, revoke},
    config::Sources,
    fault::{During as _, Fault, Result},
    output, parts,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenRole {
    /// Everything of the organisation
    Admin,
    /// Everything but raw events, people under pseudonyms; with --names everything
    Analyst,
    /// The people of one team (--team), and the team
    Lead,
    /// One person's own rows (--user)
    Member,
    /// For a program: everything of the organisation
    Service,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook token create --org acme --role analyst --expires 90d --label bi
  daybook token create --org acme --role analyst --names
  daybook token create --org acme --role lead --team compilers
  daybook token create --org acme --role member --user email:ada@acme.example
  daybook token list --org acme
  daybook token revoke TOKEN_ID

The token is printed once, to standard output, and only its hash is kept. It is a bearer token over HTTP and the password
over the PostgreSQL protocol. Once revoked or expired it is refused within 5 seconds, and its open connections end within 7.")]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").args(["team", "user", "names"]))]
pub(crate) struct CreateArgs {
    /// The organisation
    #[arg(long, value_name = "ORG")]
    org: schemas::OrgId,
    /// What its holder may see
    #[arg(long, value_enum, value_name = "ROLE")]
    role: TokenRole,
    /// An analyst sees who people are
    #[arg(long)]
    names: bool,
    /// Whose team lead
    #[arg(long, value_name = "TEAM")]
    team: Option<String>,
    /// Who the member is, as in the column user_key
    #[arg(long, value_name = "USER_KEY")]
    user: Option<String>,
    /// How long it is valid, in days or hours, such as 90d or 12h [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires: Option<SignedDuration>,
    /// What it is for
    #[arg(long, default_value = "", value_name = "TEXT")]
    label: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token
    Create(CreateArgs),
    /// List an organisation's tokens (never the secrets)
    List(ListArgs),
    /// Revoke a token; running services refuse it within seconds
    Revoke {
        /// The token's id, as `token list` shows it
        #[arg(value_name = "TOKEN_ID")]
        id: String,
    },
}

/// Days are 24 hours.
fn duration(text: &str) -> std::result::Result<SignedDuration, String> {
    let wrong = || "takes a number of days or hours, such as 90d or 12h".to_owned();
    let (number, hours) = match text.strip_suffix('d') {
        Some(days) => (days, 24),
        None => (text.strip_suffix('h').ok_or_else(wrong)?, 1),
    };
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let most = 100 * 366 * 24;
    match number.checked_mul(hours) {
        Some(hours) if (1..=most).contains(&hours) => Ok(SignedDuration::from_hours(hours)),
        _ => Err(wrong()),
    }
}

fn role(args: &CreateArgs) -> Result<Role> {
    let needs = |what: &str| Fault::usage(format!("the role needs {what}"));
    let role = match (args.role, &args.team, &args.user, args.names) {
        (TokenRole::Admin, None, None, false) => Role::Admin,
        (TokenRole::Service, None, None, false) => Role::Service,
        (TokenRole::Analyst, None, None, names) => Role::Analyst { names },
        (TokenRole::Lead, Some(team), None, false) => Role::Lead { team: team.clone() },
        (TokenRole::Member, None, Some(user), false) => Role::Member { user: user.clone() },
        (TokenRole::Lead, None, _, _) => return Err(needs("--team TEAM: whose lead it is")),
        (TokenRole::Member, _, None, _) => return Err(needs("--user USER_KEY: who it is")),
        _ => {
            let fault = Fault::usage("--team goes with the role lead, --user with member, --names with analyst");
            return Err(fault.help("`daybook token create --help` shows examples"));
        }
    };
    Ok(role)
}

pub(crate) async fn run(args: &TokenArgs, sources: &Sources, now: Timestamp) -> Result<()> {
    let directory = parts::directory(&sources.config()?).await?;
    match &args.command {
        TokenCommand::Create(args) => {
            let org = &args.org;
            let expires_at = args.expires.map(|expires| now + expires);
            let new = NewKey { role: role(args)?, expires_at, ..NewKey::of(Scope::Read, &args.label) };
            let created = directory.create_key_as(org, &new, now).await;
            let (id, secret) = created.map_err(|error| not_made(error, "token", org))?;
            output::note(&format!("token {id} of {org} ({}); it is shown this once:", new.role));
            output::text(&format!("{}\n", secret.expose()))
        }
        TokenCommand::List(ListArgs { org, output: list }) => {
            let tokens = directory.keys(org).await.during(format!("cannot list the tokens of `{org}`"))?;
            let rows: Vec<_> = tokens
                .iter()
                .filter(|token| token.scope == Scope::Read)
                .map(|token| {
                    vec![
                        json!(token.id.to_string()),
                        json!(token.role.to_string()),
                        json!(token.label),
                        json!(token.created_at.to_string()),
                        json!(token.expires_at.map(|at| at.to_string())),
                        json!(token.revoked_at.map(|at| at.to_string())),
                    ]
                })
                .collect();
            output::rows(&["id", "role", "label", "created_at", "expires_at", "revoked_at"], &rows, list.format)
        }
        TokenCommand::Revoke { id } => revoke(&directory, id, "token", now).await,
    }
}
