"""Which objective to train with, measured: the same encoder, data and budget for each, tuned alike.

    options      what the user asked for; what makes two runs the same study
    table, data  files as columns; columns chosen and checked
    splits, damage   dividing the data; making training labels worse on purpose
    encoder      the network that every objective trains
    metrics      metrics, one number for each test example
    tasks        what each task feeds a loss and how it judges
    objectives   which losses take part, with which settings and search ranges
    train        one training
    contenders, yardsticks   who takes part: objectives, and what they stand beside
    store        units of work kept in a database, so that a run can end anywhere, go on, and be shared
    search, final, cost      the three kinds of work
    plan, study  what will be done; doing it
    statistics, results      intervals and tests; what a run found
    usage, report, folder, terminal   lines of code, report.html, the directory, what is printed
    curve        the picture of ``show --plot``

Needs the extra ``compare``; importing this package alone needs nothing but the core.
"""
