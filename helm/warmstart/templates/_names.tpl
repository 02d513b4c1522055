{{/* Names, labels and addresses shared by several manifests. */}}

{{- define "warmstart.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters, to leave room for suffixes within the 63 that Kubernetes allows. */}}
{{- define "warmstart.fullname" -}}
{{- $name := include "warmstart.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The selector of a Service or policy. Arguments: context, component. */}}
{{- define "warmstart.selector" -}}
app.kubernetes.io/name: {{ include "warmstart.name" .context }}
app.kubernetes.io/instance: {{ .context.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "warmstart.labels" -}}
{{ include "warmstart.selector" . }}
app.kubernetes.io/version: {{ .context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .context.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .context.Chart.Name .context.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "warmstart.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "warmstart.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "warmstart.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "warmstart.scheme" -}}
{{- ternary "https" "http" (ne .Values.tls.existingSecret "") -}}
{{- end -}}

{{/* The URL of the Service, which routes to the gateway on the caller's node. */}}
{{- define "warmstart.url" -}}
{{- printf "%s://%s.%s.svc:%d" (include "warmstart.scheme" .) (include "warmstart.fullname" .) .Release.Namespace (int .Values.service.port) -}}
{{- end -}}

{{- define "warmstart.priorityClass" -}}
{{- if .Values.priorityClass.create -}}
{{- default (include "warmstart.fullname" .) .Values.priorityClass.name -}}
{{- else -}}
{{- .Values.priorityClass.name -}}
{{- end -}}
{{- end -}}

{{/* "true" if gateways find each other through Redis, the chart's or another. */}}
{{- define "warmstart.byRedis" -}}
{{- if and .Values.cluster.enabled (or .Values.redis.enabled .Values.redis.url .Values.redis.existingSecret) -}}
true
{{- end -}}
{{- end -}}

{{/* The security context of an unprivileged container. */}}
{{- define "warmstart.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
