"""Which faults are planted, which check of the contract has to find each, and what is said then."""

from __future__ import annotations

import re
from typing import NamedTuple

MODULES = {"backbones": "models", "baselines": "models", "fusers": "models", "loggers": "loggers"}
MODULES |= {"readers": "files", "exporters": "files"}


class Fault(NamedTuple):
    """A broken component, the check that has to find it, and what is said then."""

    contract: str
    name: str
    check: str
    said: str

    @property
    def target(self) -> str:
        return f"planted_{MODULES.get(self.contract, 'texts')}:{self.name}"


def _faults(contract: str, lines: str) -> list[Fault]:
    return [Fault(contract, *re.split(r"\s{2,}", line.strip())) for line in lines.strip().splitlines()]


FAULTS = [
    *_faults(
        "backbones",
        r"""
        NoItemEmbeddings  satisfies_the_protocol  needs fit, item_embeddings and forward|NoneType
        DoublePrecision  shapes_and_types  'scores': torch.float64
        NotANumberForOneClick  every_score_is_a_number  session \[3\]: scores that are not finite
        WritesIntoItems  inputs_stay_as_they_are  forward wrote into items
        WritesIntoSessions  inputs_stay_as_they_are  fit wrote into the training sessions
        MeanOverPadding  padding_does_not_matter  session \[3\] padded to 13 clicks: the score of
        ReadsBehindTheMask  padding_does_not_matter  \[2, 9, 2, 9, 4, 2\] padded to 13 clicks: the score of
        BatchNormalised  company_and_order_do_not_matter  session \[3\] alone: the score of item
        SameForAll  sessions_are_told_apart  \[1, 2, 3\] and \[1, 2, 4\] score the same
        IdleLayer  gradient_reaches_every_parameter  no gradient reaches these.*backbone.forgotten.weight
        Detached  gradient_reaches_every_parameter  no gradient reaches these.*backbone.short.weight
        IgnoresIntents  fused_with_every_fuser  perspectives: no gradient reaches these
        IgnoresIntents  fused_with_missing_intents  contract of backbones
        UnseededWeights  same_seed_same_model  with one seed, two models score differently
        LearnsWhileScoring  scoring_leaves_no_trace  scoring changed these tensors.*backbone.seen
        DropoutAlways  scoring_leaves_no_trace  the same sessions score differently afterwards
        FitsOnTestSessions  test_sessions_leave_no_trace  test sessions changed these tensors.*backbone.counts
        LoopsOverRows  can_be_traced  planted_models.py:\d+: lengths
        GraphOutsideTheFile  saved_model_scores_the_same  the loaded model scores differently
        ReadsEveryRow  on_a_part_of_the_catalogue  a score on a part of the catalogue differs by
        FirstClickOnly  learns_a_rule  of the next items are ranked first
        SuggestsNonsense  claims_make_sense  has unknown settings.*train.widht
        LacksWhatIsRequired  claims_make_sense  has what is not optional
        """,
    ),
    *_faults(
        "baselines",
        r"""
        NoScore  satisfies_the_protocol  needs fit and score
        DoubleScores  shape_and_type  float64
        LastColumn  padding_and_company_do_not_matter  items at padding change scores
        WritesIntoMask  inputs_stay_as_they_are  score wrote into mask
        LearnsFromTestSessions  scoring_leaves_no_trace  score differently after others were scored
        AddsUp  fitting_again_starts_anew  fitted twice, it scores differently
        AsksAboutIds  questions  no title
        ScoresTheLengthOfAnswers  questions  gives scores that are not finite
        KeepsAnswers  questions  answers change what `score` says
        """,
    ),
    *_faults(
        "fusers",
        r"""
        NotCallable  satisfies_the_protocol  must be called with two tensors
        DoubleFuser  shape_and_type  float64
        TwoPerspectivesOnly  any_number_of_perspectives  in forward, planted_models.py:\d+
        RandomFuser  repeatable  the same inputs gave two results
        AddsInPlace  repeatable  the same inputs gave two results|wrote into behavioural
        LooksAtNeighbours  rows_are_independent  another vector in a batch than alone
        DeafToIntents  both_sides_count  intents have no influence
        NotANumberWithoutIntents  missing_intents  without intents, values that are not finite
        AllAlikeWithoutIntents  missing_intents  without intents, sessions get equal vectors
        IdleGate  gradient_reaches_every_parameter  no gradient reaches these.*gate.weight
        ComparesAllItems  on_a_part_of_the_catalogue  a score on a part of the catalogue differs by
        NoneIsNotZero  scores_of_text  no intents equal zero intents
        """,
    ),
    *_faults(
        "readers",
        r"""
        NumbersAsKeys  gives_our_columns  contract of readers
        InventsItems  nothing_is_invented_and_nothing_lost  other titles than the log's
        LosesTheLastRow  nothing_is_invented_and_nothing_lost  user u059: the log has
        TimesAsText  nothing_is_invented_and_nothing_lost  user u000: the log has
        AnyOrder  reads_the_same_twice  reading again gave other clicks
        OneUser  can_be_prepared  DataError|contract of readers
        OpensAtOnce  a_missing_path_is_said_when_read  in __init__, planted_files.py:\d+
        SilentOnEmpty  a_cut_file_is_read_or_refused  is empty, and there was no error
        """,
    ),
    *_faults(
        "exporters",
        r"""
        NoPrecision  satisfies_the_protocol  precisions is empty
        RowsNotIds  answers_as_the_model  other items than the model's
        StaysWhereItWas  answers_as_the_model  in load, planted_files.py:\d+
        IgnoresTheFlag  leaves_out_what_was_seen  excluded although exclude_seen is false
        AnyK  k_beyond_the_catalogue_is_refused  DID NOT RAISE
        HalfWritten  a_failure_leaves_nothing_half_written  was left behind after RuntimeError
        """,
    ),
    *_faults(
        "llms",
        r"""
        NoFingerprint  satisfies_the_protocol  the fingerprint is empty
        NewFingerprint  satisfies_the_protocol  two fingerprints
        NoneForNothing  one_answer_per_prompt  got None; without an answer, return ""
        DropsEqualPrompts  one_answer_per_prompt  4 prompts got 3 answers
        SortedByLength  an_answer_belongs_to_its_prompt  comes at place 3
        Backwards  an_answer_belongs_to_its_prompt  comes at place 2
        SortsThePrompts  prompts_stay_as_they_are  changed the list of prompts
        Sampled  repeatable  got two answers
        ForAnotherVersion  claims_make_sense  99
        """,
    ),
    *_faults(
        "controls",
        r"""
        AlsoGenerates  satisfies_the_protocol  has a method `generate`
        OneTooFew  one_answer_per_session  4 sessions got 3 answers
        """,
    ),
    *_faults(
        "perspectives",
        r"""
        MediumHorizon  satisfies_the_protocol  horizon must be long or short
        ForgetsTheLast  a_prompt_names_the_last_item  1 items
        NamesTheTarget  a_prompt_does_not_know_what_comes_next  names what was not clicked.*Title B
        TurnsTheItems  items_stay_as_they_are  changed the list of items
        ShowsEverything  max_items_bounds_what_is_shown  Title A
        ItemThatSeesItsSession  what_asks_about_items_sees_the_last_one_only  earlier items change the prompt
        RawTitles  line_breaks_in_titles_add_no_lines  a title breaks a line
        ParsesToNone  parse_takes_anything_and_settles  is parsed to None
        KeepsQuoting  parse_takes_anything_and_settles  parsing the parsed text changes it
        """,
    ),
    *_faults(
        "encoders",
        r"""
        NoWidth  satisfies_the_protocol  assert 0 > 0
        DoubleVectors  shape_and_type  float64
        NotANumberForNothing  shape_and_type  the vector of '' has values that are not finite
        WithGradient  shape_and_type  vectors carry a gradient
        BatchCentred  order_and_company_do_not_matter  'Red Lamp \(1990\)' alone differs
        ShortestFirst  order_and_company_do_not_matter  'Red Lamp \(1990\)' alone differs
        SortsTheTexts  texts_stay_as_they_are  changed the list of texts
        OneVector  texts_are_told_apart  have one vector
        RandomProjection  repeatable  created twice, it gives vectors that differ
        """,
    ),
    *_faults(
        "localizers",
        r"""
        NoLocalize  satisfies_the_protocol  needs localize
        DoubleWeights  shapes_and_types  float64
        BeyondTheCatalogue  items_are_real_and_weights_are_shares  'Blue Table': items \[8
        HalfWeights  items_are_real_and_weights_are_shares  the weights sum to 0.500
        TwiceTheSame  items_are_real_and_weights_are_shares  an item occurs twice
        WorstFirst  best_first  are not sorted|0 before an item
        AlwaysAnIntent  an_empty_answer_is_a_zero_row  "" has embeddings
        NeedsAnAnswer  no_answers_at_all  in change, planted_texts.py:\d+
        LowersTheTitles  inputs_stay_as_they_are  changed the catalogue
        Noisy  repeatable  embeddings differ
        ComparedWithOthers  rows_do_not_depend_on_each_other  other embeddings alone
        FactsOfTensors  facts_can_be_written_down  not JSON serializable
        """,
    ),
    *_faults(
        "engines",
        r"""
        NoWorkers  satisfies_the_protocol  assert 0 >= 1
        DropsTheLast  results_come_in_the_order_of_the_blocks  50 blocks gave 49 results
        TwiceTheFirst  results_come_in_the_order_of_the_blocks  50 blocks gave 51 results
        TheQuickestFirst  results_come_in_the_order_of_the_blocks  blocks \[0, 1, .* the result of another
        MakesAnew  work_is_made_once_per_worker  called make 60 times
        TakesAll  blocks_are_not_all_taken_at_once  10000 blocks were read
        WrapsErrors  errors_of_ours_stay_ours  a worker failed
        SkipsWhatFails  errors_of_ours_stay_ours  DID NOT RAISE
        """,
    ),
    *_faults(
        "loggers",
        r"""
        WritesAtOnce  satisfies_the_protocol  the constructor writes
        LosesSettings  keeps_what_it_is_told  settings \{\}
        LastEpochOnly  keeps_what_it_is_told  plain/seed-0: epochs \[2\], expected 1 and 2
        OneModelOnly  keeps_what_it_is_told  curves of \['llm/seed-0'\]
        RoundsResults  keeps_what_it_is_told  popularity: \{'HR@20': 0.0
        SaysNothing  says_where_it_is  nothing is said
        SaysALot  says_where_it_is  has several lines
        SecondRun  a_run_that_is_there_is_replaced  \['other', 'shop', 'shop.*expected other and shop
        AllRunsGo  a_run_that_is_there_is_replaced  runs \['shop'\], expected other and shop
        LosesFiles  keeps_files  files \[\] are kept
        """,
    ),
]
