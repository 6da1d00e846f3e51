//! The statement that this session runs (tcop/pquery.h, nodes/parsenodes.h): is it a COPY whose
//! stream may be written to?
//!
//! In `COPY (SELECT f()) TO STDOUT` the server has answered with CopyOutResponse before `f` runs,
//! and adds CopyDone after it. What `f` writes in between is the client's stream. That holds only
//! where nothing else can write a row.

use core::ffi::CStr;

use pgrx::{is_a, pg_sys};

/// Why the stream of the running statement cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The statement is no COPY.
    NoCopy,
    /// COPY FROM, or COPY of a table.
    NoQuery,
    /// COPY TO a file or a program.
    NotToClient,
    /// A format other than text.
    Format,
    /// A header line.
    Header,
    /// The query can give rows of its own.
    OtherRows,
}

impl Obstacle {
    /// The DETAIL of the error.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::NoCopy => "The statement is not COPY.",
            Self::NoQuery => "The COPY has no query.",
            Self::NotToClient => "The COPY does not go to a client.",
            Self::Format => "The COPY has a format other than text.",
            Self::Header => "The COPY has a header line.",
            Self::OtherRows => "The query of the COPY is not one call of this function alone.",
        }
    }
}

/// Whether the running statement is `COPY (SELECT function(…)) TO STDOUT` in text format to a client.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(function: &str) -> Result<(), Obstacle> {
    // SAFETY: the active portal and its statements live as long as the statement that this
    // function is part of. Each node is looked at only after its tag.
    unsafe {
        let copy = running_copy().ok_or(Obstacle::NoCopy)?;
        if copy.is_from || copy.query.is_null() {
            return Err(Obstacle::NoQuery);
        }
        let to_client = pg_sys::whereToSendOutput == pg_sys::CommandDest::DestRemote;
        if copy.is_program || !copy.filename.is_null() || !to_client {
            return Err(Obstacle::NotToClient);
        }
        if pg_sys::ParallelWorkerNumber >= 0 {
            return Err(Obstacle::NotToClient);
        }
        check_options(copy.options)?;
        if is_single_call(copy.query, function) {
            Ok(())
        } else {
            Err(Obstacle::OtherRows)
        }
    }
}

/// # Safety
/// To be called while a statement runs.
unsafe fn running_copy<'a>() -> Option<&'a pg_sys::CopyStmt> {
    // SAFETY: a portal's list holds PlannedStmt nodes, which wrap a utility statement.
    unsafe {
        let portal = pg_sys::ActivePortal.as_ref()?;
        let statements = portal.stmts.as_ref()?;
        if statements.length != 1 {
            return None;
        }
        let statement: *mut pg_sys::PlannedStmt = pg_sys::list_nth(portal.stmts, 0).cast();
        let utility = statement.as_ref()?.utilityStmt;
        if utility.is_null() || !is_a(utility, pg_sys::NodeTag::T_CopyStmt) {
            return None;
        }
        utility.cast::<pg_sys::CopyStmt>().as_ref()
    }
}

/// # Safety
/// `options` is the list of a COPY statement: DefElem nodes that the server has accepted.
unsafe fn check_options(options: *mut pg_sys::List) -> Result<(), Obstacle> {
    // SAFETY: the caller's promise; the values were parsed by the server before.
    unsafe {
        for option in nodes::<pg_sys::DefElem>(options) {
            let option: *mut pg_sys::DefElem = option;
            match CStr::from_ptr((*option).defname).to_bytes() {
                b"format" if CStr::from_ptr(pg_sys::defGetString(option)) != c"text" => {
                    return Err(Obstacle::Format);
                }
                b"header" if pg_sys::defGetBoolean(option) => return Err(Obstacle::Header),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether a query is `SELECT f(…)` or `SELECT … FROM f(…)` with `f` as the function's name and
/// nothing else, so that every row it has comes from `f`.
///
/// # Safety
/// `query` is the raw parse tree of a COPY's query.
unsafe fn is_single_call(query: *mut pg_sys::Node, function: &str) -> bool {
    // SAFETY: each node is looked at only after its tag.
    unsafe {
        if !is_a(query, pg_sys::NodeTag::T_SelectStmt) {
            return false;
        }
        let select = &*query.cast::<pg_sys::SelectStmt>();
        let has_more = select.op != pg_sys::SetOperation::SETOP_NONE
            || !select.valuesLists.is_null()
            || !select.distinctClause.is_null()
            || !select.intoClause.is_null()
            || !select.whereClause.is_null()
            || !select.groupClause.is_null()
            || !select.havingClause.is_null()
            || !select.windowClause.is_null()
            || !select.sortClause.is_null()
            || !select.limitOffset.is_null()
            || !select.limitCount.is_null()
            || !select.lockingClause.is_null()
            || !select.withClause.is_null();
        let Some(target) = only(nodes::<pg_sys::ResTarget>(select.targetList)) else {
            return false;
        };
        if has_more {
            return false;
        }
        if select.fromClause.is_null() {
            return is_call((*target).val, function);
        }
        let Some(source) = only(nodes::<pg_sys::Node>(select.fromClause)) else {
            return false;
        };
        is_a((*target).val, pg_sys::NodeTag::T_ColumnRef)
            && is_a(source, pg_sys::NodeTag::T_RangeFunction)
            && is_range_of_call(&*source.cast::<pg_sys::RangeFunction>(), function)
    }
}

/// Whether an expression is a call of the function, in whatever schema the extension is.
///
/// # Safety
/// `expression` is a node of a raw parse tree.
unsafe fn is_call(expression: *mut pg_sys::Node, function: &str) -> bool {
    // SAFETY: the names of a FuncCall are String nodes, at least one of them.
    unsafe {
        if !is_a(expression, pg_sys::NodeTag::T_FuncCall) {
            return false;
        }
        let call = &*expression.cast::<pg_sys::FuncCall>();
        let name = nodes::<pg_sys::Node>(call.funcname).last();
        name.is_some_and(|name| {
            CStr::from_ptr((*name.cast::<pg_sys::String>()).sval).to_bytes() == function.as_bytes()
        }) && call.over.is_null()
            && is_of_extension(call.funcname)
    }
}

/// Whether all functions that a name can mean here are the extension's. One of somebody else could
/// call ours and add rows of its own to the stream.
///
/// # Safety
/// `name` is the list of String nodes of a call that the server has accepted.
unsafe fn is_of_extension(name: *mut pg_sys::List) -> bool {
    // SAFETY: guarded by pgrx; the list of candidates lives in the memory of the statement.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"pg_parallel_backup".as_ptr(), true);
        let any_number = -1;
        let no_names = core::ptr::null_mut();
        let mut candidate =
            pg_sys::FuncnameGetCandidates(name, any_number, no_names, false, false, false, true);
        while let Some(function) = candidate.as_ref() {
            let owner = pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, function.oid);
            if owner == pg_sys::InvalidOid || owner != extension {
                return false;
            }
            candidate = function.next;
        }
    }
    true
}

/// Whether an item of FROM is the function alone.
///
/// # Safety
/// `range` is a node of a raw parse tree.
unsafe fn is_range_of_call(range: &pg_sys::RangeFunction, function: &str) -> bool {
    // SAFETY: each member is a list of the call and its column definitions.
    unsafe {
        let Some(item) = only(nodes::<pg_sys::List>(range.functions)) else {
            return false;
        };
        let call = nodes::<pg_sys::Node>(item).next();
        !range.ordinality && call.is_some_and(|call| is_call(call, function))
    }
}

/// The one item of an iterator; `None` where there are more or none.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

/// The members of a list.
///
/// # Safety
/// `list` is NIL or a list of pointers to `T`, and lives as long as the iterator.
unsafe fn nodes<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: the caller's promise.
    let length = unsafe { list.as_ref() }.map_or(0, |list| list.length);
    // SAFETY: the index is below the list's length.
    (0..length).map(move |index| unsafe { pg_sys::list_nth(list, index).cast() })
}
