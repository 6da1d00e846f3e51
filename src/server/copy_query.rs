//! The statement that this session runs (tcop/pquery.h, nodes/parsenodes.h, nodes/plannodes.h): is it a
//! COPY whose stream may be written to?
//!
//! In `COPY (SELECT f()) TO STDOUT` the server has answered with CopyOutResponse before `f` runs,
//! and adds CopyDone after it. What `f` writes in between is the client's stream. That holds only
//! where nothing else can write a row.

use core::ffi::CStr;
use core::marker::PhantomData;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
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

/// The call of an SQL function, as the executor makes it. An argument of functions of ours that SQL does
/// not see.
pub struct Call<'a> {
    info: pg_sys::FunctionCallInfo,
    running: PhantomData<&'a ()>,
}

// SAFETY: stands for no datum, as what it wraps; the lifetime is that of the call.
unsafe impl<'a> ArgAbi<'a> for Call<'a> {
    unsafe fn unbox_arg_unchecked(argument: Arg<'_, 'a>) -> Self {
        Self {
            // SAFETY: the caller's promise.
            info: unsafe { pg_sys::FunctionCallInfo::unbox_arg_unchecked(argument) },
            running: PhantomData,
        }
    }

    fn is_virtual_arg() -> bool {
        true
    }
}

// SAFETY: the same as for what it wraps.
unsafe impl SqlTranslatable for Call<'_> {
    const TYPE_IDENT: &'static str = <pg_sys::FunctionCallInfo as SqlTranslatable>::TYPE_IDENT;
    const TYPE_ORIGIN: TypeOrigin = <pg_sys::FunctionCallInfo as SqlTranslatable>::TYPE_ORIGIN;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
        <pg_sys::FunctionCallInfo as SqlTranslatable>::ARGUMENT_SQL;
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        <pg_sys::FunctionCallInfo as SqlTranslatable>::RETURN_SQL;
}

/// Whether the running statement is `COPY (SELECT function(…)) TO STDOUT` in text format to a client, and
/// `call` that of the function.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(call: &Call<'_>) -> Result<(), Obstacle> {
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
        if is_whole_query(&*call.info).unwrap_or(false) {
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

/// Whether the plan of the COPY's query is this call and nothing else, so that every row it has comes from
/// it. Names would not tell: a function between the COPY and ours can choose what they mean. `None`
/// where the plan has another form.
///
/// # Safety
/// To be called by the called function, below a COPY.
unsafe fn is_whole_query(call: &pg_sys::FunctionCallInfoBaseData) -> Option<bool> {
    // SAFETY: the executor's state outlives the call. Each node is looked at only after its tag.
    unsafe {
        let result = call.resultinfo;
        if result.is_null() || !is_a(result, pg_sys::NodeTag::T_ReturnSetInfo) {
            return None;
        }
        let context = (*result.cast::<pg_sys::ReturnSetInfo>())
            .econtext
            .as_ref()?;
        let executor = context.ecxt_estate.as_ref()?;
        // Functions have statements of their own, with a text of their own.
        if !core::ptr::eq(executor.es_sourceText, (*pg_sys::ActivePortal).sourceText) {
            return Some(false);
        }
        let planned_call = call_of_plan(executor.es_plannedstmt.as_ref()?.planTree)?;
        let this_call = call.flinfo.as_ref()?.fn_expr;
        Some(core::ptr::eq(planned_call, this_call))
    }
}

/// The one expression of a plan for `SELECT f(…)` or `SELECT … FROM f(…)`; `None` for any other plan.
///
/// # Safety
/// `plan` is a plan that is being executed.
unsafe fn call_of_plan(plan: *mut pg_sys::Plan) -> Option<*mut pg_sys::Node> {
    // SAFETY: each node is looked at only after its tag; nodes begin with those they extend.
    unsafe {
        let target = only(nodes::<pg_sys::TargetEntry>(plan.as_ref()?.targetlist))?;
        let value = (*target).expr.cast::<pg_sys::Node>();
        if is_a(plan.cast(), pg_sys::NodeTag::T_ProjectSet) {
            let source = (*plan).lefttree;
            let is_one_row = is_a(source.cast(), pg_sys::NodeTag::T_Result)
                && (*source).lefttree.is_null()
                && (*source.cast::<pg_sys::Result>()).resconstantqual.is_null();
            return is_one_row.then_some(value);
        }
        if is_a(plan.cast(), pg_sys::NodeTag::T_FunctionScan) {
            let scan = &*plan.cast::<pg_sys::FunctionScan>();
            let function = only(nodes::<pg_sys::RangeTblFunction>(scan.functions))?;
            let shows_its_rows = (*plan).qual.is_null()
                && !scan.funcordinality
                && is_a(value, pg_sys::NodeTag::T_Var);
            return shows_its_rows.then_some((*function).funcexpr);
        }
        None
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
