//! Every request there is: its name, method and path, and who may make it. HTTP makes its routes of this table, the
//! API's description and reference are printed from it, and [`Authority::authorise`](super::Authority) asks nothing
//! else.

use smqtt_core::identity::Role::{self, Admin, Auditor, Bridge, Broker, Device, Enroller};

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Reads.
    Get,
    /// Sets.
    Put,
    /// Changes in part.
    Patch,
    /// Makes, or does.
    Post,
    /// Removes.
    Delete,
}

impl Method {
    /// As HTTP writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// Who may make a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Anybody.
    Anyone,
    /// Whoever has an enrolment token.
    Token,
    /// Whoever has one of these roles by certificate or by access token.
    Roles(&'static [Role]),
    /// Whoever has one of these roles by certificate: an access token will not do.
    Holders(&'static [Role]),
}

/// A row of the table.
struct Row {
    name: &'static str,
    method: Method,
    path: &'static str,
    who: Who,
    summary: &'static str,
}

macro_rules! operations {
    ($($operation:ident $name:literal $method:ident $path:literal $who:expr, $summary:literal;)*) => {
        /// A request that can be made of the authority.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation {
            $(#[doc = $summary] $operation,)*
        }

        impl Operation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$operation,)*];

            fn row(self) -> Row {
                match self {
                    $(Self::$operation => Row {
                        name: $name, method: Method::$method, path: $path, who: $who, summary: $summary,
                    },)*
                }
            }
        }
    };
}

/// Whoever enrolled.
const ENROLLED: &[Role] = &[Device, Broker, Bridge, Admin, Enroller, Auditor];
/// Whoever got a certificate by a token, and renews it. The administrator's is renewed by the authority itself.
const RENEWS: &[Role] = &[Device, Broker, Bridge, Enroller, Auditor];
/// Whoever looks after devices.
const WATCHES: &[Role] = &[Broker, Admin, Enroller, Auditor];

// Name, as the audit log has it; method and path; who may. A new request is a new row here, a handler in `http.rs` and
// a sample in `tests/authority/roles.rs`: without these nothing compiles or the matrix fails.
operations! {
    Health "health" Get "/v1/health" Who::Anyone, "Whether the authority works";
    Root "root" Get "/v1/root" Who::Anyone, "The root certificate, PEM; while it is exchanged, both";
    Params "params" Get "/v1/params" Who::Anyone, "The public parameters, one for each suite";
    Describe "describe" Get "/v1/openapi.json" Who::Anyone, "This API, as OpenAPI 3.1";
    Enrol "enrol" Post "/v1/enrol" Who::Token, "An identity and keys for a token";
    Renew "renew" Post "/v1/renew" Who::Holders(RENEWS), "A new certificate for whoever the old one names";
    EstRoots "est-cacerts" Get "/.well-known/est/cacerts" Who::Anyone, "EST: the roots to trust";
    EstEnrol "est-enrol" Post "/.well-known/est/simpleenroll" Who::Token, "EST: a certificate for a token";
    EstRenew "est-renew" Post "/.well-known/est/simplereenroll" Who::Holders(RENEWS), "EST: a new certificate for whoever the old one names";
    FetchKeys "fetch-keys" Get "/v1/keys" Who::Holders(&[Device]), "The caller's user secret keys, sealed to it";
    ReadBundle "read-bundle" Get "/v1/bundle" Who::Roles(ENROLLED), "The newest bundle, signed";
    ListRules "list-rules" Get "/v1/rules" Who::Roles(ENROLLED), "All topic rules";
    SetRule "set-rule" Put "/v1/rules" Who::Roles(&[Admin]), "Set the rule of a topic filter";
    RemoveRule "remove-rule" Delete "/v1/rules" Who::Roles(&[Admin]), "Remove the rule of a topic filter";
    MakeToken "make-token" Post "/v1/tokens" Who::Roles(&[Admin, Enroller]), "Leave for a device to enrol, or for several";
    ListTokens "list-tokens" Get "/v1/tokens" Who::Roles(&[Admin, Enroller, Auditor]), "Enrolment tokens without their secrets, a page at a time";
    ShowToken "show-token" Get "/v1/tokens/{token}" Who::Roles(&[Admin, Enroller, Auditor]), "One token, its serials, and who presented it";
    RemoveToken "remove-token" Delete "/v1/tokens/{token}" Who::Roles(&[Admin, Enroller]), "Take a token back";
    ListApplicants "list-enrolments" Get "/v1/enrolments" Who::Roles(&[Admin, Enroller, Auditor]), "Those who wait for approval";
    Approve "approve" Post "/v1/enrolments/{name}/approve" Who::Roles(&[Admin, Enroller]), "Make a device of whoever waits under this name";
    Deny "deny" Post "/v1/enrolments/{name}/deny" Who::Roles(&[Admin, Enroller]), "Turn away whoever waits under this name";
    ListDevices "list-devices" Get "/v1/devices" Who::Roles(WATCHES), "Devices, a page at a time";
    ShowDevice "show-device" Get "/v1/devices/{device}" Who::Roles(WATCHES), "One device, by name or identifier";
    ChangeDevice "change-device" Patch "/v1/devices/{device}" Who::Roles(&[Admin]), "Other attributes or another policy for a device";
    Suspend "suspend" Post "/v1/devices/{device}/suspend" Who::Roles(&[Admin]), "Suspend a device until it is resumed";
    Resume "resume" Post "/v1/devices/{device}/resume" Who::Roles(&[Admin]), "Let a suspended device in again";
    Reset "reset" Post "/v1/devices/{device}/reset" Who::Roles(&[Admin]), "End a device, and make a token to enrol it anew";
    Revoke "revoke" Post "/v1/devices/{device}/revoke" Who::Roles(&[Admin]), "Revoke a device, for good";
    ListProfiles "list-profiles" Get "/v1/profiles" Who::Roles(&[Admin, Enroller, Auditor]), "All profiles";
    ShowProfile "show-profile" Get "/v1/profiles/{name}" Who::Roles(&[Admin, Enroller, Auditor]), "One profile";
    SetProfile "set-profile" Put "/v1/profiles/{name}" Who::Roles(&[Admin]), "Set a profile, and what its devices have";
    RemoveProfile "remove-profile" Delete "/v1/profiles/{name}" Who::Roles(&[Admin]), "Remove a profile that nobody has";
    ListGroups "list-groups" Get "/v1/groups" Who::Roles(&[Admin, Enroller, Auditor]), "All groups";
    ShowGroup "show-group" Get "/v1/groups/{name}" Who::Roles(&[Admin, Enroller, Auditor]), "One group";
    SetGroup "set-group" Put "/v1/groups/{name}" Who::Roles(&[Admin]), "Set a group, and what its devices have";
    RemoveGroup "remove-group" Delete "/v1/groups/{name}" Who::Roles(&[Admin]), "Remove a group that nobody has";
    ShowRevocation "show-revocation" Get "/v1/devices/{device}/revocation" Who::Roles(&[Admin, Auditor]), "What a revocation did";
    ListRevocations "list-revocations" Get "/v1/revocations" Who::Holders(&[Broker]), "Revocations that the broker has not reported on";
    ReportRevocation "report-revocation" Post "/v1/revocations/{device}/done" Who::Holders(&[Broker]), "What a broker did about a revocation";
    ReadDirectory "read-directory" Get "/v1/directory" Who::Roles(&[Broker, Admin]), "Devices that are new or changed";
    BeginEpoch "begin-epoch" Post "/v1/epoch/rotate" Who::Roles(&[Admin]), "Begin a new epoch now";
    MakeAccess "make-access" Post "/v1/access" Who::Holders(&[Admin]), "Leave for a program to make some requests";
    ListAccess "list-access" Get "/v1/access" Who::Roles(&[Admin, Auditor]), "The access tokens, without their secrets";
    RemoveAccess "remove-access" Delete "/v1/access/{id}" Who::Roles(&[Admin]), "End an access token";
    BackUp "back-up" Post "/v1/backup" Who::Roles(&[Admin]), "Write a backup, sealed to recovery keys";
    RotateRootKey "rotate-root-key" Post "/v1/rotate/root-key" Who::Roles(&[Admin]), "Draw another root key";
    RotateMaster "rotate-master" Post "/v1/rotate/master" Who::Roles(&[Admin]), "A step on the way to another master secret key";
    RotateCertificate "rotate-certificate" Post "/v1/rotate/certificate" Who::Roles(&[Admin]), "A step on the way to another root that issues certificates";
    ReadAudit "read-audit" Get "/v1/audit" Who::Roles(&[Admin, Auditor]), "The audit log, a page at a time";
    ListCheckpoints "list-checkpoints" Get "/v1/audit/checkpoints" Who::Roles(&[Admin, Auditor]), "What the authority signed of its audit log";
}

impl Operation {
    /// Its name: one word for the audit log, for access tokens and for programs.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The operation of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|operation| operation.name() == name)
    }

    /// The method of its request.
    pub fn method(self) -> Method {
        self.row().method
    }

    /// The path of its request, with `{variables}`.
    pub fn path(self) -> &'static str {
        self.row().path
    }

    /// Who may.
    pub fn who(self) -> Who {
        self.row().who
    }

    /// What it is, in a line.
    pub fn summary(self) -> &'static str {
        self.row().summary
    }

    /// Whether a second request with the same `Idempotency-Key` is answered as the first one was, and changes nothing. The
    /// others can be repeated as they are.
    pub fn takes_idempotency_key(self) -> bool {
        use Operation::{
            BeginEpoch, MakeAccess, MakeToken, Reset, RotateCertificate, RotateMaster, RotateRootKey,
        };
        matches!(self, MakeToken | MakeAccess | Reset | BeginEpoch)
            || matches!(self, RotateMaster | RotateRootKey | RotateCertificate)
    }

    /// Whether `If-Match` is heeded: whether it changes something that has an `ETag`.
    pub fn takes_if_match(self) -> bool {
        use Operation::{
            ChangeDevice, RemoveGroup, RemoveProfile, RemoveRule, SetGroup, SetProfile, SetRule,
        };
        matches!(
            self,
            ChangeDevice | SetRule | RemoveRule | SetProfile | RemoveProfile | SetGroup | RemoveGroup
        )
    }

    /// The roles that may; none where no role is asked for.
    pub fn roles(self) -> &'static [Role] {
        match self.who() {
            Who::Anyone | Who::Token => &[],
            Who::Roles(roles) | Who::Holders(roles) => roles,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_requests_are_each_of_one_operation() {
        let names: BTreeSet<_> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        let requests: BTreeSet<_> =
            Operation::ALL.iter().map(|operation| (operation.path(), operation.method().name())).collect();
        assert_eq!((names.len(), requests.len()), (Operation::ALL.len(), Operation::ALL.len()));
        for operation in Operation::ALL {
            assert_eq!(Operation::from_name(operation.name()), Some(*operation));
            assert!(!operation.roles().contains(&Role::Authority), "{operation:?}");
        }
    }

    #[test]
    fn an_auditor_changes_nothing_and_an_enroller_nothing_but_tokens() {
        for operation in Operation::ALL {
            let (roles, reads) = (operation.roles(), operation.method() == Method::Get);
            // A certificate of one's own is nobody else's business.
            let own = matches!(operation, Operation::Renew | Operation::EstRenew);
            assert!(!roles.contains(&Auditor) || reads || own, "{operation:?}");
            let enrols = matches!(
                operation,
                Operation::MakeToken | Operation::RemoveToken | Operation::Approve | Operation::Deny
            );
            assert!(!roles.contains(&Enroller) || reads || own || enrols, "{operation:?}");
        }
    }
}
