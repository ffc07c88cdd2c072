//! The schemas, as data: RFC 7643 §3.1, §4.1, §4.2 and §4.3.

use super::schema::{
    Attribute,
    Kind::{Binary, Boolean, DateTime, Reference},
    Mutability::{Immutable, WriteOnly},
    Schema,
};

const fn text(name: &'static str, about: &'static str) -> Attribute {
    Attribute::text(name, about)
}

const TYPE: Attribute = text("type", "What it is used for.");
const DISPLAY: Attribute = text("display", "As people read it.");
const PRIMARY: Attribute = Attribute::new("primary", Boolean, "The preferred one; of one value at most it is true.");

/// Of every resource, whatever its schema (RFC 7643 §3.1).
pub(super) static COMMON: &[Attribute] = &[
    text("id", "Given by the server.").exact().read_only().always().unique(),
    text("externalId", "Given by the client.").exact(),
    Attribute::new("schemas", Reference, "URNs of the resource's schemas.").several().always(),
    Attribute::complex(
        "meta",
        "About the resource.",
        &[
            text("resourceType", "User or Group.").exact().read_only(),
            Attribute::new("created", DateTime, "When it was made.").read_only(),
            Attribute::new("lastModified", DateTime, "When it was last changed.").read_only(),
            Attribute::new("location", Reference, "Its address.").read_only(),
            text("version", "Its ETag.").exact().read_only(),
        ],
    )
    .read_only(),
];

/// RFC 7643 §4.1.
pub(super) static USER: Schema = Schema {
    id: "urn:ietf:params:scim:schemas:core:2.0:User",
    name: "User",
    about: "A person.",
    attributes: &[
        text(
            "userName",
            "What the person signs in with. Where it is an e-mail address, events with it are the person's.",
        )
        .required()
        .unique(),
        Attribute::complex(
            "name",
            "The parts of the name.",
            &[
                text("formatted", "The full name."),
                text("familyName", "The family name."),
                text("givenName", "The given name."),
                text("middleName", "Middle names."),
                text("honorificPrefix", "Such as Dr."),
                text("honorificSuffix", "Such as III."),
            ],
        ),
        text("displayName", "The name to be shown."),
        text("nickName", "What the person is called."),
        Attribute::reference("profileUrl", "A page about the person.", &["external"]),
        text("title", "Such as Vice President."),
        text("userType", "Such as Employee."),
        text("preferredLanguage", "As in Accept-Language."),
        text("locale", "Such as en-US."),
        text("timezone", "Such as Europe/Zurich."),
        Attribute::new("active", Boolean, "False: the person's tokens are revoked."),
        text("password", "Neither kept nor used.").exact().as_is(WriteOnly),
        Attribute::many(
            "emails",
            "E-mail addresses. Events with the primary or only one are the person's.",
            &[text("value", "The address."), DISPLAY, TYPE.canonical(&["work", "home", "other"]), PRIMARY],
        ),
        Attribute::many(
            "phoneNumbers",
            "Telephone numbers.",
            &[
                text("value", "The number."),
                DISPLAY,
                TYPE.canonical(&["work", "home", "mobile", "fax", "pager", "other"]),
                PRIMARY,
            ],
        ),
        Attribute::many(
            "ims",
            "Addresses for instant messages.",
            &[text("value", "The address."), DISPLAY, TYPE, PRIMARY],
        ),
        Attribute::many(
            "photos",
            "Pictures.",
            &[
                Attribute::reference("value", "Where it is.", &["external"]),
                DISPLAY,
                TYPE.canonical(&["photo", "thumbnail"]),
                PRIMARY,
            ],
        ),
        Attribute::many(
            "addresses",
            "Postal addresses.",
            &[
                text("formatted", "The whole address."),
                text("streetAddress", "Street and number."),
                text("locality", "City."),
                text("region", "State or region."),
                text("postalCode", "Postal code."),
                text("country", "Country, ISO 3166-1 alpha-2."),
                TYPE.canonical(&["work", "home", "other"]),
                PRIMARY,
            ],
        ),
        Attribute::many(
            "groups",
            "The groups that the person is a member of.",
            &[
                text("value", "The group's id.").exact().read_only(),
                Attribute::reference("$ref", "The group's address.", &["Group"]).read_only(),
                text("display", "The group's name.").read_only(),
                text("type", "Always direct.").canonical(&["direct"]).read_only(),
            ],
        )
        .read_only(),
        Attribute::many(
            "entitlements",
            "What the person may do.",
            &[text("value", "Its name."), DISPLAY, TYPE, PRIMARY],
        ),
        Attribute::many("roles", "What the person is.", &[text("value", "Its name."), DISPLAY, TYPE, PRIMARY]),
        Attribute::many(
            "x509Certificates",
            "Certificates.",
            &[Attribute::new("value", Binary, "DER in base64."), DISPLAY, TYPE, PRIMARY],
        ),
    ],
};

/// Extensions of users: RFC 7643 §4.3.
pub(super) static OF_USERS: [Schema; 1] = [Schema {
    id: "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User",
    name: "EnterpriseUser",
    about: "A person in a company.",
    attributes: &[
        text("employeeNumber", "The number that the company gave."),
        text("costCenter", "The cost centre."),
        text("organization", "The organisation."),
        text("division", "The division."),
        text("department", "The department."),
        Attribute::complex(
            "manager",
            "Whom the person reports to.",
            &[
                text("value", "The manager's id.").exact(),
                Attribute::reference("$ref", "The manager's address.", &["User"]),
                text("displayName", "The manager's name.").read_only(),
            ],
        ),
    ],
}];

/// RFC 7643 §4.2.
pub(super) static GROUP: Schema = Schema {
    id: "urn:ietf:params:scim:schemas:core:2.0:Group",
    name: "Group",
    about: "A team.",
    attributes: &[
        text("displayName", "The team's name: its team_id in tables.").required().unique(),
        Attribute::many(
            "members",
            "The people in it; other groups are not taken.",
            &[
                text("value", "The person's id.").exact().as_is(Immutable),
                Attribute::reference("$ref", "The person's address.", &["User"]).as_is(Immutable),
                text("type", "Always User.").canonical(&["User"]).as_is(Immutable),
            ],
        ),
    ],
};

/// All that `/Schemas` shows.
pub(super) static ALL: [&Schema; 3] = [&USER, &OF_USERS[0], &GROUP];
